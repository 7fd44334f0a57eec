# The OpenAI-compatible HTTP service: a client of the gRPC API that holds no state. Context: the repository's root.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
COPY deploy/requirements/rest.txt /tmp/
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --quiet --timeout 60 --no-cache-dir --no-deps --require-hashes -r /tmp/rest.txt

FROM ${PYTHON_IMAGE} AS rest
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    TURNLOOM_REST_ADDRESS=0.0.0.0:8088 TURNLOOM_REST_FILES_URL=/var/lib/turnloom/files
# A named volume takes the owner of the folder that it covers first.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin turnloom \
 && install -d -o turnloom -g turnloom /var/lib/turnloom/files
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY deploy/docker/health.py /app/
COPY turnloom /app/turnloom
COPY services/__init__.py services/quoting.py services/variables.py /app/services/
COPY services/store/__init__.py services/store/errors.py /app/services/store/
COPY services/store/blobs/__init__.py services/store/blobs/deadlines.py services/store/blobs/files.py \
     services/store/blobs/s3.py services/store/blobs/web.py /app/services/store/blobs/
COPY services/rest /app/services/rest
USER 10001:10001
STOPSIGNAL SIGTERM
EXPOSE 8088
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["python", "/app/health.py", "http", "http://127.0.0.1:8088/health"]
CMD ["python", "-m", "services.rest"]
