#!/usr/bin/env bash
# Run the tests, after making .venv if needed: tests/run.sh [pytest arguments]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
"$root/recipes/setup.sh" --extras test,lint
cd "$root"
exec .venv/bin/python -m pytest "$@"
