# syntax=docker/dockerfile:1
FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY examples examples
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --bin portcullis && cp target/release/portcullis /portcullis

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /data portcullis
COPY --from=build /portcullis /usr/local/bin/portcullis
USER portcullis
WORKDIR /data
EXPOSE 8080
ENTRYPOINT ["portcullis"]
CMD ["run", "-c", "/etc/portcullis/gateway.toml"]
