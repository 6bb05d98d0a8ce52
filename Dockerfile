# intarsia serve, for CPUs (ONNX Runtime) or CUDA (torch): docker build --target cpu|cuda -t intarsia .
# Not built where it was written: there was no container engine.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE weights.toml ./
COPY intarsia intarsia
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheels

FROM python:3.12-slim AS base
ENV OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
RUN useradd --system --create-home --uid 1000 intarsia && install -d -m 0700 -o intarsia /data
COPY --from=build /wheels /wheels
VOLUME /data
EXPOSE 8765
HEALTHCHECK --start-period=30s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/healthz')"]
ENTRYPOINT ["intarsia", "serve", "--data", "/data", "--host", "0.0.0.0", "--keys", "/keys.txt"]

FROM base AS cuda
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[cuda,serve-postgres]"
USER intarsia

FROM base AS cpu
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[cpu,serve-postgres]"
USER intarsia
