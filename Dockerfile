# Both programs, each in an image of its own: `docker compose build`.
# Images run as an unprivileged user, whose own the state folder is; docker-compose.yml makes the rest read-only.

ARG AGENT_BASE=debian:bookworm-slim

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The CUDA build of the agent needs no toolkit here, but NVRTC and headers where it runs:
# `--build-arg FEATURES=site-agent/cuda --build-arg AGENT_BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04`, and a GPU for its container.
ARG FEATURES=""
ENV CUDARC_CUDA_VERSION=12080
RUN cargo build --release --locked --package aggregator --package site-agent --features "$FEATURES"

FROM debian:bookworm-slim AS aggregator
RUN useradd --system --uid 10001 --create-home --home-dir /state federation
USER federation
WORKDIR /state
VOLUME /state
COPY --from=build /src/target/release/aggregator /usr/local/bin/aggregator
EXPOSE 4433
ENTRYPOINT ["aggregator"]
CMD ["serve", "--state", "/state"]

FROM ${AGENT_BASE} AS site-agent
RUN useradd --system --uid 10001 --create-home --home-dir /state federation
USER federation
WORKDIR /state
VOLUME /state
COPY --from=build /src/target/release/site-agent /usr/local/bin/site-agent
ENTRYPOINT ["site-agent", "--state", "/state"]
CMD ["run"]
