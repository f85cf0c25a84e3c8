#!/bin/sh
# What a person with a GPU runs: make gpu-check. It expects .venv with requirements/cuda.txt.
# Arguments go to `recsys bench train`, such as --quick.
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin
"$bin/python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || {
  echo "gpu-check: torch finds no GPU here: see $bin/recsys doctor" >&2
  exit 2
}
"$bin/recsys" doctor
"$bin/pytest" -m gpu tests/gpu -rs
"$bin/python" benchmarks/lookups.py --device cuda
"$bin/recsys" bench train "$@" --device cuda --peers
