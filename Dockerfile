# An image of the harness.
#
#   docker build -t lv-eval .                                                                   # for CPUs
#   docker build -t lv-eval:gpu --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 .          # for GPUs
#   docker run --rm --user "$(id -u):$(id -g)" -e HOME=/work -v "$PWD:/work" lv-eval --help     # --gpus all for GPUs
#
# The folder /work is where runs are written. Keys are given at the start (-e OPENAI_API_KEY), never built in.
# BASE: any image of Debian or Ubuntu with Python 3.11 or newer, its own or apt's.
ARG BASE=python:3.12-slim
FROM ${BASE}

RUN if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
        apt-get update \
        && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && python3 -m venv /opt/venv \
    && useradd --create-home --uid 10001 lveval \
    && install -d -o lveval -g lveval /work
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    USER=lveval

# The packages change seldom and are large: a layer of their own, before the code. On a machine without GPUs
# --build-arg PIP_EXTRA_INDEX_URL=... with the address of torch's CPU wheels makes the image gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /lv-eval
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements.txt -c constraints.txt

# The code stays a checkout in /lv-eval and is installed from there, so `lveval` and `python prediction.py` are the same.
COPY . .
RUN pip install --no-cache-dir --no-deps -e .

USER lveval
WORKDIR /work
ENTRYPOINT ["lveval"]
CMD ["--help"]
