# The trainer worker, and by another command the supervisor and the exporter. Holds the tinker SDK and no torch: the
# model lives in the TuFT server. Context: the repository's root.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
# tinker asks for transformers; its models need torch, so their compiled files only take room.
COPY deploy/requirements/trainer.txt /tmp/
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir --no-deps --require-hashes -r /tmp/trainer.txt \
 && site=/opt/venv/lib/python3.11/site-packages && arrow=$site/pyarrow \
 && rm -rf "$arrow"/include "$arrow"/tests "$arrow"/*flight* \
 && find "$site/transformers/models" -name __pycache__ -exec rm -rf {} + \
 && /opt/venv/bin/python -c 'import pyarrow.parquet, pyarrow.ipc, pyarrow.dataset, tinker'

FROM ${PYTHON_IMAGE} AS trainer
# TINKER_TELEMETRY: on a fatal error the SDK would send the API key in clear text.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    TINKER_TELEMETRY=0 TURNLOOM_STORE_URL=/var/lib/turnloom/store \
    TURNLOOM_TUFT_CHECKPOINT_DIR=/var/lib/turnloom/checkpoints
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin turnloom \
 && install -d -o turnloom -g turnloom /var/lib/turnloom/store /var/lib/turnloom/checkpoints
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY deploy/docker/health.py /app/
COPY turnloom /app/turnloom
COPY services/__init__.py services/outages.py services/quoting.py services/variables.py /app/services/
COPY services/store /app/services/store
COPY services/trainer /app/services/trainer
USER 10001:10001
STOPSIGNAL SIGTERM
EXPOSE 9465
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "/app/health.py", "worker"]
CMD ["python", "-m", "services.trainer"]
