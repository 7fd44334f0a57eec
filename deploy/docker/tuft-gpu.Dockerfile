# The TuFT server for an NVIDIA host, accelerated by services/tuft: training with CUDA, without vLLM. TuFT's files are
# unmodified. Context: the repository's root.
# Its configuration is mounted: deploy/models/tuft-gpu.yaml.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
COPY deploy/requirements/tuft-gpu.txt deploy/requirements/tuft-server.txt /tmp/
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir --no-deps --require-hashes -r /tmp/tuft-gpu.txt \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir --no-deps --require-hashes -r /tmp/tuft-server.txt

FROM ${PYTHON_IMAGE} AS tuft-gpu
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp TUFT_HOME=/tmp/tuft \
    RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    TURNLOOM_TUFT_CHECKPOINT_DIR=/var/lib/turnloom/checkpoints HF_HOME=/var/lib/turnloom/hub
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin turnloom \
 && install -d -o turnloom -g turnloom /var/lib/turnloom/checkpoints /var/lib/turnloom/hub
# Triton compiles a stub for its kernels when it first runs them.
# DL3008 asks for pins; the compiler's version does not matter.
# hadolint ignore=DL3008
RUN apt-get update -qq && apt-get install -qq --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY deploy/docker/health.py /app/
COPY services/__init__.py /app/services/
COPY services/tuft /app/services/tuft
USER 10001:10001
STOPSIGNAL SIGTERM
EXPOSE 10610
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s CMD ["python", "/app/health.py", "http", "http://127.0.0.1:10610/api/v1/healthz"]
CMD ["python", "-m", "services.tuft", "launch", "--config", "/etc/turnloom/tuft-gpu.yaml", "--host", "0.0.0.0", "--port", "10610"]
