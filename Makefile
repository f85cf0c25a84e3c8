# `make` lists the targets. Everything lives in .venv; nothing is installed outside it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.DELETE_ON_ERROR:
.PHONY: help setup bench-peers demo test test-slow lint wheel lock clean

# What `make setup` installs, each package with its hash. Empty: cpu.txt, or cpu-default-torch.txt if pip finds no CPU
# build of torch. CUDA machines: make setup REQUIREMENTS=requirements/cuda.txt (untested)
REQUIREMENTS ?=
EXTRAS := demo baselines ray slurm postgres dev
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: .venv/.stamp  ## make .venv with everything in it; does nothing when it is up to date

.venv/.stamp: pyproject.toml $(wildcard requirements/*.txt requirements/*/pyproject.toml)
	@python=""
	for candidate in python3.11 python3; do
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null; then
	    python="$$candidate"; break
	  fi
	done
	if [ -z "$$python" ]; then
	  echo "expected python3.11 (or a python3 that is 3.11 or 3.12), got $$(python3 --version 2>&1 || true):" \
	    "install Python 3.11 and put python3.11 on the PATH" >&2
	  exit 2
	fi
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
	  echo "setup: making .venv with $$($$python --version)"
	  $$python -m venv .venv
	fi
	lock="$(REQUIREMENTS)"
	if [ -z "$$lock" ]; then
	  lock=requirements/cpu.txt
	  torch=$$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$$lock")
	  if ! $(PIP) index versions torch 2>/dev/null | tr ' ,' '\n\n' | grep -xF "$$torch" >/dev/null; then
	    lock=requirements/cpu-default-torch.txt
	    echo "setup: pip finds no torch $$torch: taking the CUDA build, several GB; for the small one, name PyTorch's index" \
	      "of CPU builds in PIP_EXTRA_INDEX_URL"
	  fi
	fi
	standin=""
	if grep -q '^fbgemm-gpu-cpu==' "$$lock"; then standin=./requirements/fbgemm-gpu-cpu-shim; fi
	# A lock holds all there is; --no-deps, since the stand-in is no file of an index and comes after.
	echo "setup: installing $$lock into .venv (a few minutes the first time)"
	$(PIP) install --quiet --require-hashes -r requirements/build.txt
	$(PIP) install --require-hashes --no-deps --no-build-isolation -r "$$lock" | { n=0; while read -r verb what size; do
	  case "$$verb" in
	    Collecting | Processing) n=$$((n + 1)); echo "  $$n $${what##*/}" ;;
	    Downloading) [[ "$$size" == \([0-9][0-9]*MB\) ]] && echo "      downloading $$size" || true ;;
	    Installing) [ "$$what" != collected ] || echo "  installing $$n packages" ;;
	  esac; done; }
	$(PIP) install --quiet --no-deps --no-build-isolation $$standin -e .
	$(PIP) check
	touch $@
	echo "setup: done; try 'make demo', or '$(BIN)/recsys doctor' if something is odd"

bench-peers: .venv-peers/.stamp  ## .venv-peers: the libraries beside which `recsys bench train` measures, on the torch of .venv

.venv-peers/.stamp: requirements/peers.txt .venv/.stamp
	@$(BIN)/python -m venv .venv-peers
	peers=.venv-peers/bin/python
	site='import sysconfig; print(sysconfig.get_path("purelib"))'
	$(BIN)/python -c "$$site" > "$$($$peers -c "$$site")/of-setup.pth"
	echo "bench-peers: installing requirements/peers.txt into .venv-peers"
	$$peers -m pip --disable-pip-version-check --no-input install --quiet --require-hashes --no-deps -r requirements/peers.txt
	touch $@

demo: setup  ## real clicks to a tracked, compressed, served model (about 4 minutes after set-up, on two cores)
	@$(BIN)/recsys run experiment=demo

lint: setup  ## style, types and layers
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --threads 2
	$(BIN)/lint-imports --no-logo

test: lint  ## what CI runs: lint, then all tests but the slow ones
	@$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --durations=15

test-slow: setup  ## the slow tests only
	@$(BIN)/pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder -o faulthandler_timeout=1800

gpu-check:  ## on a machine with a GPU: set-up with requirements/cuda.txt, tests marked gpu, speed and bandwidth
	@$(MAKE) setup REQUIREMENTS=requirements/cuda.txt
	benchmarks/gpu.sh

wheel: setup  ## dist/: the wheel, the stand-in for fbgemm-gpu that CPU machines need, and the versions to install
	@rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	$(BIN)/python -m build --wheel --no-isolation --outdir dist requirements/fbgemm-gpu-cpu-shim >/dev/null
	sed -n 's/^\([a-z].*\) \\$$/\1/p' requirements/cpu-default-torch.txt > dist/constraints.txt
	ls -1 dist/*

lock:  ## write requirements/*.txt anew; UPGRADE=--upgrade takes newer versions
	@[ -x $(BIN)/python ] || $(MAKE) setup  # not a prerequisite: with a new dependency set-up fails until it is locked
	tool=$$(mktemp -d); trap 'rm -r "$$tool"' EXIT
	$(PIP) install --quiet --require-hashes --target "$$tool" -r requirements/uv.txt
	lock() {
	  echo "lock: $$1"
	  "$$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	    --no-annotate --custom-compile-command "make lock" --output-file "$$@"
	}
	cd requirements
	project="../pyproject.toml $(EXTRAS:%=--extra %)"
	standin=fbgemm-gpu-cpu-shim/pyproject.toml
	same="--constraints cpu-default-torch.txt"
	lock cpu-default-torch.txt $$project $$standin --excludes excluded-with-standin.in $(UPGRADE)
	lock cpu.txt $$project $$standin --excludes excluded-with-standin.in --excludes excluded-on-cpu.in --no-emit-package torch $$same
	cat torch-cpu.txt >> cpu.txt
	lock cuda.txt $$project $$same
	lock build.txt build.in $$same
	lock uv.txt uv.in
	lock benchmarks.txt benchmarks.in --no-deps
	lock peers.txt peers.in --no-deps
	lock ../docker/serve-requirements.txt ../docker/serve-requirements.in $$same
	lock ../docker/mlflow-requirements.txt ../docker/mlflow-requirements.in $$same

clean:  ## remove .venv, .venv-peers, dist and caches; runs and results stay
	@rm -rf .venv .venv-peers dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
