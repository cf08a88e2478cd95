# Sourced by staged recipes: the environment, --stage/--stop-stage, and what every stage starts with.
#
# A recipe sets `root` before, reads its options, `stage` and `stop_stage` among them, and wraps each step in
# `if stage N "what it does"; then … fi`.
set -euo pipefail

stage=${stage:-0}
stop_stage=${stop_stage:-1000}
venv=$root/.venv/bin
# fairseq's first lines are deprecation warnings of its own libraries.
export PYTHONWARNINGS=ignore PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

die() { echo "error: $*" >&2; exit 2; }

stage() {
  [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] || return 1
  echo "--- stage $1: $2" >&2
}
