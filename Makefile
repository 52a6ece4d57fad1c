# Every check and every way to run it, by one name each; CI uses the same ones. `make help` lists them.

# The inner loop: all packages but those that start Dapr, and but the whole-system tests, which take minutes.
FAST = $(shell go list ./... | grep -Ev '/(tests/(clock|dapr|embedded|outage|soak|trip)|internal/engine/dapr|internal/testing/daprtest)(/|$$)')
# Whole systems under load and under outages: one package after the other, or they starve each other on a small machine.
WHOLE = $(addprefix ./tests/,brokers clock dapr embedded outage soak trip)
PARTS = $(filter-out $(addprefix %/,$(WHOLE:./%=%)),$(shell go list ./...))
# Our own sources; tools/ has modules of its own beside tools/stack.
SOURCES = $(shell git ls-files -co --exclude-standard '*.go' | grep -v '^gen/')
# The examples are modules of their own, as a stranger's program is.
EXAMPLES = examples/trip
STACK = go run ./tools/stack
# What carries the events on Dapr: redis, rabbitmq or kafka.
BROKER ?= redis
TOOLS = PATH="$(CURDIR)/.local/tools:$$PATH"

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

##@ Running it
.PHONY: build run run-dapr up up-dapr down clean
build: ## build the binaries into bin/
	@mkdir -p bin
	go build -o bin/ ./cmd/...
	@for example in $(EXAMPLES); do go build -C $$example -o "$(CURDIR)/bin/" ./... || exit 1; done
run: build ## the main job, embedded: start everything in one process, demonstrate, audit, show another saga, stop
	@$(STACK) run --engine embedded
run-dapr: build ## the same on real Dapr (the first time builds Dapr: some minutes)
	@$(STACK) run --engine dapr --broker $(BROKER)
up: build ## start it embedded and leave it running in the background
	@$(STACK) up --engine embedded
up-dapr: build ## start it on real Dapr and leave it running in the background; BROKER=redis, rabbitmq or kafka
	@$(STACK) up --engine dapr --broker $(BROKER)
down: ## stop whatever up started; data stays under .local/
	@$(STACK) down
clean: ## down, and remove the data under .local/
	@$(STACK) clean

##@ Tests and measurements
.PHONY: test test-fast fuzz bench
test: install build ## every test, on real PostgreSQL, real Dapr and real Redis
	@$(STACK) test-env
	@status=0; go test -timeout 30m $(PARTS) || status=$$?; for example in $(EXAMPLES); do go test -C $$example -timeout 10m ./... || status=$$?; done; \
	go test -p 1 -timeout 60m $(WHOLE) || status=$$?; $(STACK) test-down; exit $$status
test-fast: install ## what needs no Dapr and takes no minutes: the inner loop
	@go test -short -timeout 10m $(FAST)
	@for example in $(EXAMPLES); do go test -C $$example -short -timeout 10m ./... || exit 1; done
fuzz: install ## arbitrary requests to every procedure of every service, for as long as FUZZ says (10m)
	@FUZZ=$(or $(FUZZ),10m) go test -count=1 -timeout 0 -v ./tests/fuzz
bench: install build ## the benchmarks: a table, and bench/out/*.json
	@$(STACK) test-env
	@status=0; go run ./bench || status=$$?; $(STACK) test-down; exit $$status

##@ Checks
# Each check by itself is quick; all run, and the end names those that failed.
CHECKS = check-format check-vet check-lint check-generated check-proto check-imports check-modules
.PHONY: check $(CHECKS)
check: tools ## formatting, linters, generated code, protobuf compatibility, import rules
	@failed=; for check in $(CHECKS); do \
		if $(MAKE) $$check; then echo "ok      $$check"; else echo "FAILED  $$check"; failed="$$failed $$check"; fi; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }
check-format:
	@files=$$(gofmt -l $(SOURCES)); [ -z "$$files" ] || { echo "not formatted (run gofmt -w):" $$files; exit 1; }
check-vet:
	@go vet ./...
	@for example in $(EXAMPLES); do go vet -C $$example ./... || exit 1; done
check-lint:
	@$(TOOLS) staticcheck ./...
	@for example in $(EXAMPLES); do (cd $$example && $(TOOLS) staticcheck ./...) || exit 1; done
# A breaking change of a contract fails here; see `generate` for one that only adds.
check-proto:
	@$(TOOLS) buf lint proto
	@$(TOOLS) buf breaking proto --against proto/baseline.binpb
check-generated:
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && \
	{ $(TOOLS) buf generate proto -o "$$made" && diff -r gen "$$made/gen" && \
	  $(TOOLS) buf build proto --exclude-source-info -o "$$made/baseline.binpb" && cmp proto/baseline.binpb "$$made/baseline.binpb" && \
	  $(TOOLS) buf build proto -o - | go run ./tools/topics "$$made" && diff docs/topics.md "$$made/docs/topics.md" && \
	  diff components/subscriptions.yaml "$$made/components/subscriptions.yaml"; } || \
	{ echo "what is generated is not that of proto/: run make generate"; exit 1; }
check-imports:
	@go test ./internal/architecture
check-modules:
	@go mod tidy -diff
	@for example in $(EXAMPLES); do go mod tidy -C $$example -diff || exit 1; done

##@ Beside
.PHONY: help install install-dapr tools generate
help: ## this text
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
install: ## install PostgreSQL, Redis, RabbitMQ and what tests need where they are missing (the other targets do it)
	@$(STACK) install
install-dapr: ## build Dapr into the user's cache, once per version (the other targets do it)
	@$(STACK) dapr-build
tools: ## build buf and the linter into the user's cache, once per version (check does it)
	@$(STACK) tools
# The baseline follows each change that only adds, so that what was added is held to as well.
generate: tools ## generate from proto/ code, docs/topics.md and Dapr's subscriptions; refuses what breaks what is out there
	@$(TOOLS) buf breaking proto --against proto/baseline.binpb
	@$(TOOLS) buf generate proto
	@$(TOOLS) buf build proto --exclude-source-info -o proto/baseline.binpb
	@$(TOOLS) buf build proto -o - | go run ./tools/topics .
