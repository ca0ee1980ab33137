# The two commands to know: `make demo` and `make test`. Both set up what is missing.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REGISTRY ?= ghcr.io/kubectl-dr
PLATFORMS ?= linux/amd64,linux/arm64
LDFLAGS  := -s -w -X github.com/kubectl-dr/kubectl-dr/zfssnap/names.Version=$(VERSION)
BIN      := $(CURDIR)/bin
DIST     := $(CURDIR)/dist
RELEASES := $(foreach p,linux/amd64 linux/arm64 darwin/amd64 darwin/arm64,$(p)/kubectl-dr) linux/amd64/zfs-agent linux/arm64/zfs-agent
LAB      := $(BIN)/lab
GO_BUILD := CGO_ENABLED=0 go build -ldflags '$(LDFLAGS)'

# Without paths in what it builds, Go's cache serves every checkout.
export GOFLAGS := -trimpath

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## the whole story on real parts: back up, replicate, drill, move there and home, lose the site, fail over, report
	$(BIN)/demo

.PHONY: demo-rebuild
demo-rebuild: build ## another story: a cluster is lost, a fresh one comes up from Git, and gets what Git does not hold
	$(BIN)/demo rebuild

.PHONY: demo-wordpress
demo-wordpress: build ## and another: a real WordPress on MariaDB is rehearsed, moves to the other site, and home again
	$(BIN)/demo wordpress

.PHONY: demo-sites
demo-sites: build ## measure a failover to a warm and to a hot site
	$(BIN)/demo sites

.PHONY: test
test: lint ## lint, then everything on the rig, and beside it unit tests and others' verdicts
	$(MAKE) --jobs=2 e2e beside

# Most of what runs on the rig comes after something else, and should not wait.
.PHONY: beside
beside:
	nice -n 5 $(MAKE) unit
	nice -n 5 $(MAKE) oracles

.PHONY: unit
unit: ## unit tests alone; they need no rig
	go test -race ./...
	cd test/lab && go test -race ./...

# Go does not know which programs they run, so what it remembers of them is not asked.
.PHONY: oracles
oracles: ## rewritten objects before Traefik's router and a real kube-apiserver, Velero and cert-manager, which are built first
	cd test/oracles && go test -count=1 -parallel 4 -timeout 40m ./...

.PHONY: e2e
e2e: build ## end-to-end tests on a rig of their own
	test/e2e/run

.PHONY: crash
crash: ## break every step of replication in turn, on pools in memory
	go test -race -count=1 -v ./zfssnap/crashtest -faults=0

.PHONY: soak
soak: build crash ## the crash matrix, external-dns over rewritten objects, Flux beside rebuilds, all end-to-end tests, then three whole stories
	cd test/oracles && go test -tags soak -timeout 60m -run 'TestControllers|TestFlux' .
	test/e2e/run -long
	$(BIN)/demo
	$(BIN)/demo wordpress
	$(BIN)/demo sites

.PHONY: bench
bench: build ## speed on real OpenZFS beside what one would otherwise use, of a look at 1,000 volumes, of a restore by a profile, and of a failover, with their bars
	test/bench/run
	go test -run='^$$' -bench=Profile_Apply ./restore/rules | awk 'BEGIN {print "REWRITING ONE OBJECT\tOURS\tBAR\tVERDICT"} /ns\/op/ {printf "%s\t%.1f µs\t< 50 µs\t%s\n", $$1, $$3/1000, $$3 < 50000 ? "met" : "MISSED"} /FAIL/'
	cd test/oracles && go test -tags bench -timeout 60m -run HardlyLonger -v .

.PHONY: lint
lint: ## gofmt, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt'ed:"; echo "$$out"; exit 1; }
	go vet ./...
	cd test/lab && go vet -tags e2e ./...
	cd test/oracles && go vet -tags bench,soak ./...
	go run $(STATICCHECK) ./...
	cd test/lab && go run $(STATICCHECK) -tags e2e ./...
	cd test/oracles && go run $(STATICCHECK) -tags bench,soak ./...

.PHONY: fmt
fmt: ## format the Go files
	gofmt -w $$(git ls-files '*.go')

.PHONY: build
build: ## build the three programs, the rig and the demo into bin/
	@mkdir -p $(BIN)
	$(GO_BUILD) -o $(BIN)/ ./cmd/...
	cd test/lab && CGO_ENABLED=0 go build -o $(LAB) . && CGO_ENABLED=0 go build -o $(BIN)/demo ./demo

.PHONY: lab-up
lab-up: build ## bring the rig up (two sites with OpenZFS, Kubernetes and Velero, one S3 server)
	$(LAB) up

.PHONY: lab-down
lab-down: ## take the rig down; nothing is left behind
	@[ -x $(LAB) ] || $(MAKE) build
	$(LAB) down

.PHONY: generate
generate: ## regenerate the agent's protocol, deepcopy code and CRDs
	go generate ./...

.PHONY: container
container: ## build the three images for $(PLATFORMS) (PUSH=1 pushes them)
	for target in plugin agent cli; do \
	  docker buildx build --platform $(PLATFORMS) --target $$target --build-arg VERSION=$(VERSION) \
	    -t $(REGISTRY)/$$(case $$target in plugin) echo velero-plugin-zfs-dr;; agent) echo zfs-agent;; cli) echo kubectl-dr;; esac):$(VERSION) \
	    $(if $(PUSH),--push,) . ; \
	done

.PHONY: dist
dist: ## release archives, and the krew manifest with their checksums, in dist/
	@rm -rf $(DIST) && mkdir -p $(DIST)
	@for target in $(RELEASES); do \
	  IFS=/ read -r os arch program <<< "$$target"; \
	  echo "$${program}_$${os}_$$arch.tar.gz"; \
	  GOOS=$$os GOARCH=$$arch $(GO_BUILD) -o $(DIST)/$$program ./cmd/$$program; \
	  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C $(DIST) -cf - $$program -C $(CURDIR) LICENSE \
	    | gzip -n > $(DIST)/$${program}_$${os}_$$arch.tar.gz; \
	  rm $(DIST)/$$program; \
	done
	@cd $(DIST) && sha256sum *.tar.gz > checksums.txt
	@awk -v version='$(VERSION)' 'NR == FNR {sum[$$2] = $$1; next} \
	  /uri:/ {file = $$2; sub(/.*\//, "", file)} \
	  /sha256:/ {sub(/"0+"/, sum[file])} \
	  {gsub(/v0\.1\.0/, version); print}' $(DIST)/checksums.txt examples/krew/dr.yaml > $(DIST)/dr.yaml
	@! grep -n 'sha256: *$$' $(DIST)/dr.yaml

.PHONY: clean
clean: ## remove what was built here (the cache of the rig's parts stays)
	rm -rf $(BIN) $(DIST)
