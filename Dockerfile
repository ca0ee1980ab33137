# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
ARG TARGETOS TARGETARCH TARGETVARIANT VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY cmd cmd
COPY plugin plugin
COPY restore restore
COPY zfssnap zfssnap
COPY kubectl-dr kubectl-dr
COPY examples/crds examples/crds
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} \
    go build -trimpath -ldflags "-s -w -X github.com/kubectl-dr/kubectl-dr/zfssnap/names.Version=$VERSION" -o /out/ ./cmd/...

# Velero starts this image as an init container with the plugins folder at /target.
FROM scratch AS plugin
LABEL org.opencontainers.image.title="velero-plugin-zfs-dr" \
      org.opencontainers.image.source="https://github.com/kubectl-dr/kubectl-dr" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/velero-plugin-zfs-dr /plugins/velero-plugin-zfs-dr
COPY --from=build /out/cp-plugin /bin/cp-plugin
USER 65532:65532
ENTRYPOINT ["/bin/cp-plugin", "/plugins/velero-plugin-zfs-dr", "/target/velero-plugin-zfs-dr"]

# The agent runs zfs(8), which must match the host's kernel module: the host's
# root is mounted at /host and its zfs is used from there (see examples/agent).
FROM gcr.io/distroless/static-debian12 AS agent
LABEL org.opencontainers.image.title="zfs-agent" \
      org.opencontainers.image.source="https://github.com/kubectl-dr/kubectl-dr" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/zfs-agent /zfs-agent
ENTRYPOINT ["/zfs-agent"]
CMD ["serve"]

FROM gcr.io/distroless/static-debian12:nonroot AS cli
LABEL org.opencontainers.image.title="kubectl-dr" \
      org.opencontainers.image.source="https://github.com/kubectl-dr/kubectl-dr" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/kubectl-dr /kubectl-dr
USER 65532:65532
ENTRYPOINT ["/kubectl-dr"]
