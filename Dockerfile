# A static binary in an image without a shell: docker build -t plutino .
FROM rust:1.91-alpine AS build
RUN apk add --no-cache musl-dev gcc make
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist --bin plutino \
 && mkdir -p /image/data /image/etc/plutino \
 && cp target/dist/plutino /image/plutino

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /image/plutino /usr/local/bin/plutino
COPY --from=build --chown=65532:65532 /image/data /var/lib/plutino
COPY --from=build /image/etc/plutino /etc/plutino
# Nobody outside of the container reaches its loopback address. Publish 9081 only to hosts that may manage the service.
ENV PLUTINO__BASIC__RESTIP=0.0.0.0
VOLUME /var/lib/plutino
EXPOSE 9081 10081
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["/usr/local/bin/plutino", "show", "streams"]
ENTRYPOINT ["/usr/local/bin/plutino"]
CMD ["serve", "--etc", "/etc/plutino", "--data", "/var/lib/plutino"]
