#!/usr/bin/env bash
# Check on a machine with a GPU what no test can check without one, and measure it there.
#
#   recipes/gpu_check.sh [--minutes 8] [--dest recipes/results/gpu.json] [--only STEP,STEP] [--dry-run]
#
# It installs nothing. It takes .venv (recipes/setup.sh makes it) or, where there is none, python3 or what PYTHON names:
# the steps of modules need PyTorch alone, the others fairseq too, and are left out without it. It prints a table, and
# keeps it in --dest with all figures; given again on the same machine and commit, it continues where it was stopped.
# --dry-run runs the same steps in small on the CPU.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=${PYTHON:-python3}
# fairseq's first lines are deprecation warnings of its own libraries.
export PYTHONWARNINGS=ignore PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m recipes.gpu.check "$@"
