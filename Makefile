# Isthmus: what a developer runs. `make` alone lists it.
#
# Nothing here needs more than Go, gcc and make on Debian 12; what else the tests
# need (etcd and Kubernetes from source; Slurm, containerd and python3 from Debian) is built
# or installed by `make prepare`, which `make test` runs by itself.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build images prepare demo up down test test-unit test-long test-frameworks fuzz race bench lint generate verify clean

TOOL     := go tool -modfile=test/tools/go.mod
PROGRAMS := vnode scheduler controllers isthmus
OUT      := _out

# Volcano's own types give Volcano's CRDs, without the descriptions.
empty    :=
space    := $(empty) $(empty)
comma    := ,
VOLCANO  := batch/v1alpha1 scheduling/v1beta1 bus/v1alpha1 flow/v1alpha1 topology/v1alpha1 nodeinfo/v1alpha1
VOLCANO_PATHS := paths={$(subst $(space),$(comma),$(strip $(addprefix volcano.sh/apis/pkg/apis/,$(VOLCANO))))}

# The tests that need neither a control plane nor Slurm.
PURE := ./backends ./backends/fake/... ./backends/hostlist/... ./backends/packing/... \
	./controllers/api/... ./controllers/job/machine/... ./provider/lifecycle/... ./provider/podstatus/... \
	./provider/translate/... ./provider/podrun/... ./scheduler/...

help: ## list these targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build all programs into bin/ (podrun static, for any compute node)
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/podrun ./cmd/podrun
	CGO_ENABLED=0 go build -trimpath -o bin/ $(addprefix ./cmd/,$(PROGRAMS))
	ln -sf isthmus bin/kubectl-isthmus

images: build ## write the container images that the chart names to _out/images, as OCI archives
	@bin/isthmus images $(OUT)/images

prepare: ## build the Kubernetes control plane and a kubelet, install Slurm, containerd and python3, make test users (first time 10 to 15 min)
	@go run ./cmd/isthmus prepare

demo: ## watch a four-member Volcano Job run as one Slurm job, then clear all away
	@go build -o bin/isthmus ./cmd/isthmus
	@exec bin/isthmus demo

up: ## start control plane, Slurm and Isthmus on this machine and leave them running
	@go build -o bin/isthmus ./cmd/isthmus
	@exec bin/isthmus up

down: ## end what `make up` started
	@go build -o bin/isthmus ./cmd/isthmus
	@exec bin/isthmus down

# The race detector costs the pure packages little and finds most there, so the
# same run serves as `race`. The end-to-end tests come first, since they take longest
# and mostly wait.
test: prepare ## everything a change must pass, with the race detector (about 40 min on two cores when built)
	@assets="$$(go run ./cmd/isthmus prepare --assets)"; export KUBEBUILDER_ASSETS="$$assets"; \
	{ go test -race -p 3 -timeout 50m -json ./test/e2e ./... && exit=0 || exit=$$?; echo "{\"Action\":\"exit\",\"Elapsed\":$$exit}"; } | go run ./test/testbed/summary -again 3 -- -race -timeout 20m

test-unit: ## the pure packages only, in seconds
	go test $(PURE)

test-long: FUZZTIME = 6m
test-long: prepare fuzz ## rare orders of events: 20,000 histories of faults, 100,000 pods, crash enumeration with 5 seeds, fuzzing, everything 5 times (hours)
	@assets="$$(go run ./cmd/isthmus prepare --assets)"; export KUBEBUILDER_ASSETS="$$assets"; \
	properties="$$(go list -f '{{.ImportPath}} {{.TestImports}} {{.XTestImports}}' ./... | awk '/pgregory.net.rapid/ { print $$1 }')"; \
	{ ISTHMUS_SIMULATED_SEEDS=20000 go test -timeout 120m -count=1 -json -run SimulatedFaults ./provider; \
	  ISTHMUS_SIMULATED_SEEDS=20000 go test -timeout 120m -count=1 -json -run 'Contention|ReservationsAreKept|PlannedStarts|ShortGangs|KeptOut|Twins|ManyClaimants' ./scheduler; \
	  ISTHMUS_SIMULATED_SEEDS=20000 go test -timeout 120m -count=1 -json -run 'CacheInHistories|CyclesThatRemember' ./scheduler/binder ./scheduler/cache; \
	  ISTHMUS_SCHEDULER_KILLS=300 go test -timeout 120m -count=1 -json -run 'KilledSchedulers|KilledInScenes' ./cmd/scheduler; \
	  ISTHMUS_SOAK=100000 go test -timeout 120m -count=1 -json ./test/soak; \
	  ISTHMUS_SEEDS=20 go test -timeout 90m -count=1 -json -run 'TestKilledAtWrites|TestEveryEffect' ./cmd/controllers; \
	  ISTHMUS_JOBS=10000 go test -timeout 90m -count=1 -json -run TestShortJobs ./cmd/controllers; \
	  ISTHMUS_CONTROLLER_KILLS=300 go test -timeout 60m -count=1 -json -run TestKilledProgram ./cmd/controllers; \
	  ISTHMUS_TRIALS=500 go test -timeout 60m -count=1 -json -run TwoDaemonsForOneNode ./provider; \
	  ISTHMUS_KILLS=200 go test -timeout 120m -count=1 -json -run Kill ./test/e2e; \
	  ISTHMUS_TRIALS=500 go test -timeout 120m -count=1 -json -run 'TestTwoDaemons$$' ./test/e2e; \
	  ISTHMUS_TRIALS=50 go test -timeout 60m -count=1 -json -run TestConvergence ./test/e2e; \
	  ISTHMUS_TRIALS=1000 go test -timeout 120m -count=1 -json -run TestDownWhileJobsEnd ./test/e2e; \
	  ISTHMUS_TRIALS=50 go test -timeout 60m -count=1 -json -run TestDaemonEndsInOrder ./test/e2e; \
	  ISTHMUS_UPGRADE=200 go test -tags upgrade -timeout 60m -count=1 -json ./test/upgrade; \
	  ISTHMUS_SEEDS=5 go test -race -timeout 60m -count=1 -json ./test/crash; \
	  ISTHMUS_PARITY=all go test -timeout 40m -count=1 -json -run TestParity ./test/parity; \
	  go test -race -timeout 60m -count=1 -json $$properties -rapid.checks=2000; \
	  go test -race -timeout 120m -count=5 -json $$(go list ./... | grep -v /test/crash); } | go run ./test/testbed/summary

test-frameworks: prepare ## real frameworks on a real Slurm: PyTorch and others, of exact versions (installs gigabytes the first time)
	@assets="$$(go run ./cmd/isthmus prepare --assets)"; export KUBEBUILDER_ASSETS="$$assets" ISTHMUS_FRAMEWORKS=1; \
	go test -v -count=1 -timeout 100m $(if $(RUN),-run '$(RUN)') ./test/frameworks

FUZZTIME ?= 30s
fuzz: ## every fuzz target for FUZZTIME (30s), one after another
	@git grep -oE '^func Fuzz[A-Za-z0-9]+' -- '*_test.go' | sed 's/:func / /' | while read -r file target; do \
		echo "fuzz: $$target in $$(dirname $$file), $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "./$$(dirname $$file)" </dev/null; \
	done

race: test-race-pure ## the pure packages with the race detector, repeatedly
.PHONY: test-race-pure
test-race-pure:
	go test -race -count=3 $(PURE)

bench: prepare ## measure what the README calls figures, each beside a reference (some minutes when built; LARGE=1 for 5,000 nodes with a real API server, too; best on an idle machine)
	go run ./test/perf/lists
	go run ./test/perf/submit
	go run ./test/perf/ssh
	go run ./test/perf/bind
	go run ./test/perf/tenants
	go run ./test/perf/latency
	go run ./test/perf/runners
	go run ./test/perf/jobs
	go run ./test/perf/backfill
	go test -run '^$$' -bench . -benchmem -benchtime 5x -count=3 ./scheduler
	go test -run '^$$' -bench 'Change|Selected|Unlike' -benchtime 20x -count=3 ./scheduler/cache
	go test -run '^$$' -bench Intake -benchtime 4000x -count=3 ./scheduler/cache
	go test -run '^$$' -bench Jobs -benchtime 1x -count=3 ./scheduler/simulate
	$(if $(LARGE),go run ./test/perf/bind -nodes 5000 -restart 100000)
	$(if $(LARGE),go run ./test/perf/bind -nodes 5000 -shapes 500x20 -create -rounds 3)
	$(if $(LARGE),go run ./test/perf/bind -nodes 5000 -shapes 10000x1$(comma)500x20$(comma)20x500$(comma)1x10000 -rounds 3)

lint: ## golangci-lint with .golangci.yml (its own first build takes 3 min)
	$(TOOL) golangci-lint run

# generate-into writes all generated files: CRDs to $(1), deep copies to $(2).
define generate-into
	$(TOOL) controller-gen crd paths=./controllers/api/... output:crd:dir=$(1)
	$(TOOL) controller-gen crd:maxDescLen=0,generateEmbeddedObjectMeta=true '$(VOLCANO_PATHS)' output:crd:dir=$(1)
	$(TOOL) controller-gen object paths=./controllers/api/hpc/v1alpha1 output:object:dir=$(2)
endef

generate: ## write CRDs and deep copies again after a change of API types
	$(call generate-into,charts/isthmus/crds,controllers/api/hpc/v1alpha1)

verify: ## generated files, formatting and go.mod are as they should be
	@rm -rf $(OUT)/verify && mkdir -p $(OUT)/verify/crds $(OUT)/verify/deepcopy
	$(call generate-into,$(OUT)/verify/crds,$(OUT)/verify/deepcopy)
	diff -r $(OUT)/verify/crds charts/isthmus/crds
	diff $(OUT)/verify/deepcopy/zz_generated.deepcopy.go controllers/api/hpc/v1alpha1/zz_generated.deepcopy.go
	@echo "gofmt -l"; unformatted="$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go' | while read -r f; do [ -e "$$f" ] && echo "$$f"; done))"; \
	if [ -n "$$unformatted" ]; then echo "not formatted:"; echo "$$unformatted"; exit 1; fi
	go mod tidy -diff
	go mod verify
	go vet -tags record ./backends/slurm
	go vet -tags upgrade ./test/upgrade

clean: ## remove what the other targets built in this folder (the cache in ~/.cache/isthmus stays)
	rm -rf bin $(OUT)
