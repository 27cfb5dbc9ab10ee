# syntax=docker/dockerfile:1
# No CUDA base image: whatever a GPU needs beside its driver comes from pip, the driver from the container toolkit.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY stridekit stridekit
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm
# For a GPU: --build-arg EXTRAS=cli,cuda13 (driver 580 or later) or cli,cuda12.
ARG EXTRAS=cli
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[${EXTRAS}]" && rm -r /wheels
RUN useradd --create-home --uid 1000 stridekit && mkdir /data && chown stridekit /data
USER stridekit
# Pictures come from here and results go here: docker run -v "$PWD:/data" stridekit compare photo.jpg
WORKDIR /data
ENV STRIDEKIT_CACHE_DIR=/home/stridekit/.cache/stridekit MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["stridekit"]
CMD ["--help"]
