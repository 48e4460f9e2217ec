# Both programs, each in an image of its own: `docker compose build`.
# Images run as an unprivileged user, with a read-only root; only the state folder is writable.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The CUDA build of the agent needs no toolkit here: `--build-arg FEATURES=site-agent/cuda`.
ARG FEATURES=""
ENV CUDARC_CUDA_VERSION=12080
RUN cargo build --release --locked --package aggregator --package site-agent --features "$FEATURES"

FROM debian:bookworm-slim AS base
RUN useradd --system --uid 10001 --create-home --home-dir /state federation
USER federation
WORKDIR /state
VOLUME /state

FROM base AS aggregator
COPY --from=build /src/target/release/aggregator /usr/local/bin/aggregator
EXPOSE 4433
ENTRYPOINT ["aggregator"]
CMD ["serve", "--state", "/state"]

FROM base AS site-agent
COPY --from=build /src/target/release/site-agent /usr/local/bin/site-agent
ENTRYPOINT ["site-agent", "--state", "/state"]
CMD ["run"]
