# Training image (CPU). Not built here: checked with a linter only.
#   docker build -f docker/train.Dockerfile -t recsys-train .
# torch from the default index is the CUDA build on Linux; for the CPU one name its lock and the index that holds it:
#   --build-arg REQUIREMENTS=requirements/cpu.txt --build-arg PIP_OPTIONS="--extra-index-url URL"
FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

ARG REQUIREMENTS=requirements/cpu-default-torch.txt
ARG PIP_OPTIONS=""

# g++ compiles the .pt2 runtime of a bundle; git stamps a run with its commit.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 recsys

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY recsys recsys
COPY pipelines pipelines
COPY conf conf
# hadolint ignore=SC2086
RUN pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && pip install --no-cache-dir --require-hashes --no-deps --no-build-isolation $PIP_OPTIONS -r "$REQUIREMENTS" \
    && pip install --no-cache-dir --no-deps --no-build-isolation ./requirements/fbgemm-gpu-cpu-shim -e . \
    && pip check

# Runs, results and the default MLflow store are written under /data.
RUN mkdir /data && chown recsys /data
USER 1000
WORKDIR /data
VOLUME /data
ENTRYPOINT ["recsys"]
CMD ["doctor"]
