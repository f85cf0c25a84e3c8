# Training image (CPU). Not built here: checked with a linter only.
#   docker build -f docker/train.Dockerfile -t recsys-train .
# torch==2.13.0 from the default index is the CUDA build on Linux; for the CPU one name the index that holds it:
#   --build-arg PIP_OPTIONS="--extra-index-url URL"
FROM python:3.11-slim

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
RUN pip install --no-cache-dir $PIP_OPTIONS -r requirements/cpu.txt && pip check

# Runs, results and the default MLflow store are written under /data.
RUN mkdir /data && chown recsys /data
USER 1000
WORKDIR /data
VOLUME /data
ENTRYPOINT ["recsys"]
CMD ["doctor"]
