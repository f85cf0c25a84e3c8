# Scoring image: no torch, pandas or mlflow. Not built here: checked with a linter only.
#   docker build -f docker/serve.Dockerfile -t recsys-serve .
#   docker run --init -e RECSYS_TOKEN -p 8080:8080 -v ./bundle:/bundle:ro recsys-serve    (callers send that token)
FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS wheel
WORKDIR /src
COPY requirements/build.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY recsys recsys
COPY pipelines pipelines
COPY conf conf
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .

FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
COPY docker/serve-requirements.txt /dist/requirements.txt
COPY --from=wheel /dist /dist
# The wheel without its dependencies: those are for training.
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r /dist/requirements.txt \
    && pip install --no-cache-dir --no-deps /dist/*.whl \
    && rm -r /dist \
    && useradd --create-home --uid 1000 recsys
USER 1000
WORKDIR /srv
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health', timeout=2)"]
ENTRYPOINT ["recsys"]
CMD ["serve", "/bundle", "--host", "0.0.0.0", "--port", "8080"]
