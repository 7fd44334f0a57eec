# Two images: `api` serves gRPC and imports neither transformers nor datasets; `worker` adds both, cuts corpora into
# shards and prepares models. Context: the repository's root.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

# Of Arrow, headers, tests and Flight (60 MB) are used by nobody here.
FROM ${PYTHON_IMAGE} AS api-packages
COPY deploy/requirements/preprocess.txt /tmp/
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir --no-deps --require-hashes -r /tmp/preprocess.txt \
 && arrow=/opt/venv/lib/python3.11/site-packages/pyarrow && rm -rf "$arrow"/include "$arrow"/tests "$arrow"/*flight* \
 && /opt/venv/bin/python -c 'import pyarrow.parquet, pyarrow.ipc, pyarrow.dataset'

FROM ${PYTHON_IMAGE} AS runtime
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    TURNLOOM_ADDRESS=0.0.0.0:50051 TURNLOOM_METRICS_ADDRESS=0.0.0.0 TURNLOOM_STORE_URL=/var/lib/turnloom/store \
    TURNLOOM_MODEL_CACHE=/var/lib/turnloom/models/cache TURNLOOM_MODELS=/var/lib/turnloom/models/models.toml
# A named volume takes the owner of the folder that it covers first.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin turnloom \
 && install -d -o turnloom -g turnloom /var/lib/turnloom/store /var/lib/turnloom/models /var/lib/turnloom/hub \
    /var/lib/turnloom/tokens
WORKDIR /app
COPY deploy/docker/health.py /app/
COPY turnloom /app/turnloom
COPY services/__init__.py services/outages.py services/quoting.py services/variables.py /app/services/
COPY services/store /app/services/store
COPY services/preprocess /app/services/preprocess
USER 10001:10001
STOPSIGNAL SIGTERM

FROM runtime AS api
COPY --from=api-packages /opt/venv /opt/venv
EXPOSE 50051 9464
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD ["python", "/app/health.py", "grpc", "127.0.0.1:50051", "turnloom.v1.PreprocessService"]
CMD ["python", "-m", "services.preprocess"]

# After the API's stages: the classic builder builds every stage above the target.
FROM ${PYTHON_IMAGE} AS worker-packages
COPY deploy/requirements/preprocess-worker.txt /tmp/
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir --no-deps --require-hashes -r /tmp/preprocess-worker.txt \
 && arrow=/opt/venv/lib/python3.11/site-packages/pyarrow && rm -rf "$arrow"/include "$arrow"/tests "$arrow"/*flight* \
 && /opt/venv/bin/python -c 'import pyarrow.parquet, pyarrow.ipc, pyarrow.dataset'

FROM runtime AS worker
COPY --from=worker-packages /opt/venv /opt/venv
COPY deploy/docker/prepare_models.py /app/
ENV HF_HOME=/var/lib/turnloom/hub
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "/app/health.py", "worker"]
CMD ["python", "-m", "services.preprocess", "worker"]
