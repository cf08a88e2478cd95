#!/usr/bin/env bash
# Run the tests, after making .venv if needed: tests/run.sh [pytest arguments]
#
# One process a core, with one thread each; -n 0 runs them in one process.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
"$root/recipes/setup.sh" --extras test,lint
cd "$root"
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest -n auto --dist worksteal "$@"
