# The TuFT server, unmodified, for a laptop and for tests: training on the CPU, without vLLM. Context: the repository's root.
#
# torch comes from the first of these that is there:
#   deploy/wheels/torch-2.13.0*.whl    filled by `pip download --no-deps -d deploy/wheels torch==2.13.0` where pip knows a CPU build
#   --build-arg TORCH_INDEX=URL        PyTorch's index of CPU wheels (TURNLOOM_TORCH_INDEX in .env)
#   otherwise the default index, which brings CUDA: it works and costs about 5 GB more.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ARG TORCH_INDEX=
# The pattern matches the folder where it exists; a missing folder is no error then.
COPY deploy/requirements/tuft-cpu.txt deploy/requirements/tuft-server.txt deploy/wheel[s] /tmp/wheels/
# DL3013 asks for a pin and overlooks torch's behind the options.
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir --no-deps --require-hashes -r /tmp/wheels/tuft-cpu.txt \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir --no-deps --require-hashes -r /tmp/wheels/tuft-server.txt \
 && if ls /tmp/wheels/torch-*.whl >/dev/null 2>&1; then set -- --no-deps --no-index --find-links /tmp/wheels; \
    elif [ -n "$TORCH_INDEX" ]; then set -- --no-deps --index-url "$TORCH_INDEX"; else set --; fi \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir "$@" torch==2.13.0

FROM ${PYTHON_IMAGE} AS tuft-cpu
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp TUFT_HOME=/tmp/tuft \
    RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    TURNLOOM_TUFT_CHECKPOINT_DIR=/var/lib/turnloom/checkpoints TURNLOOM_TUFT_MODEL_PATH=/var/lib/turnloom/models/tiny-qwen3
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin turnloom \
 && install -d -o turnloom -g turnloom /var/lib/turnloom/checkpoints /var/lib/turnloom/models
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY deploy/docker/health.py deploy/tuft/cpu.yaml turnloom/embedded/tiny_model.py examples/conversations.jsonl /app/
COPY services/__init__.py /app/services/
COPY services/tuft /app/services/tuft
USER 10001:10001
STOPSIGNAL SIGTERM
EXPOSE 10610
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s CMD ["python", "/app/health.py", "http", "http://127.0.0.1:10610/api/v1/healthz"]
CMD ["python", "-m", "services.tuft", "launch-cpu", "--config", "/app/cpu.yaml", "--host", "0.0.0.0", "--port", "10610"]
