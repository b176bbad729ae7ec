# `make` or `make help` says what there is. Each target installs what it needs (scripts/bootstrap).

target_dir := $(or $(CARGO_TARGET_DIR),target)
release := $(target_dir)/release

.PHONY: help demo test check console lab soak model simulation forecasts reader bench compare fuzz package test-packages test-kubernetes clean

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

demo: ## Build, and watch a busy VM move between two processes and back
	@scripts/bootstrap build
ifeq ($(shell [ -c /dev/kvm ] && (exec 3<>/dev/kvm) 2>/dev/null && echo usable),)
	@echo "VMs cannot run here, so an emulated host with KVM of its own is booted, and the demo runs in it."
	@scripts/bootstrap lab
	@scripts/lab demo
else
	cargo build --locked --release --package whimbrel-vmm --package whimbrel
	$(release)/whimbrel demo
endif

test: check ## Everything: checks, documentation examples, unit and end-to-end tests
	@scripts/bootstrap test
	@scripts/test

test-kubernetes: ## The fleet on a real Kubernetes API server, which is built once (5 minutes)
	@scripts/bootstrap kubernetes
	@scripts/kubernetes test

package: ## Debian packages and lists of what is in them, into target/package
	@scripts/bootstrap package
	@scripts/package

test-packages: ## Install, upgrade and remove the packages in a clean Debian, while a machine runs
	@scripts/bootstrap test-packages
	@scripts/test-packages

check: ## Formatting, lints, dependencies and licences, boundaries between crates
	@scripts/bootstrap check
	@scripts/stage format scripts/format --check
	@scripts/stage clippy cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	@scripts/stage clippy-guest cargo clippy --locked --quiet --manifest-path guests/workload/Cargo.toml --lib --bins -- -D warnings
	@scripts/stage deny cargo deny --locked --log-level error check --hide-inclusion-graph bans licenses sources
	@scripts/stage console-rules scripts/console check
	@scripts/stage boundaries cargo test --locked --quiet --workspace --test dependencies --test knowledge --test policy

console: ## Build the console; the next build of the program has it
	@scripts/bootstrap build
	@scripts/console build

lab: ## Linux guests that move between two emulated hosts, SCENARIOS (all) of them
	@scripts/bootstrap lab
	@scripts/lab run $(SCENARIOS)

soak: ## Migrate while something goes wrong each time, for MINUTES (10)
	@scripts/bootstrap build
	@scripts/soak

model: ## Explore the larger models of the hand-over, which takes long
	@scripts/bootstrap build
	cargo test --locked --package whimbrel-migration --test model -- --ignored --nocapture --test-threads=1

simulation: ## Play the decisions of the fleet through, for large fleets and SEEDS (1000) small ones
	@scripts/bootstrap build
	cargo test --locked --package whimbrel-fleet --test simulation -- --ignored --nocapture --test-threads=1

forecasts: ## Compare what is foretold of 40 guests and links with what comes, which takes minutes
	@scripts/bootstrap build
	cargo test --locked --package whimbrel-vmm --test e2e -- --ignored --nocapture forty_guests

reader: ## Measure what a vCPU that only reads keeps of its speed while one that writes is slowed down
	@scripts/bootstrap build
	cargo test --locked --package whimbrel-vmm --test e2e -- --ignored --nocapture only_reads_keeps

bench: ## Measure, side by side with QEMU where it does the same
	@scripts/bootstrap bench
	cargo build --locked --release --package whimbrel-vmm --package whimbrel
	cargo bench --locked --workspace --bench '*'
	$(release)/whimbrel bench --json $(target_dir)/bench.json
	$(release)/whimbrel bench --fleet

compare: ## Three scenarios in every mode, beside QEMU, and what users felt; COMPARE="-n 5" for other options
	@scripts/bootstrap bench
	cargo build --locked --release --package whimbrel-vmm --package whimbrel
	$(release)/whimbrel compare --json $(target_dir)/compare.json --html $(target_dir)/compare.html $(COMPARE)

fuzz: ## Fuzz everything that parses bytes from outside, FUZZ_SECONDS (30) for each target
	@scripts/bootstrap fuzz
	@scripts/fuzz

clean: ## Remove what was built
	cargo clean
	find console/dist -mindepth 1 ! -name .keep -delete
	rm -rf console/node_modules fuzz/target fuzz/corpus fuzz/artifacts guests/workload/target
