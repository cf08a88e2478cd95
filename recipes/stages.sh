# Sourced by recipes/NAME/run.sh: `python` is that of .venv or, before stage 0 has made it, python3 or what PYTHON names.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

python() {
  local program=$root/.venv/bin/python
  if [ ! -x "$program" ]; then
    program=${PYTHON:-python3}
    "$program" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || {
      echo "error: $program is missing or older than Python 3.11; name another: PYTHON=python3.11 $0" >&2
      exit 1
    }
  fi
  # Whatever ends this shell ends what it runs.
  "$program" "$@" &
  trap "kill -INT $!; wait $!; exit 130" INT
  trap "kill -TERM $!; wait $!; exit 143" TERM
  wait $!
  trap - INT TERM
  case " $* " in *" --help "* | *" -h "*) exit 0 ;; esac
}
