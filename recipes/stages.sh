# Sourced by recipes/NAME/run.sh: `python` is that of .venv or, before stage 0 has made it, python3 or what PYTHON names.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

# Whatever ends this shell ends what it runs.
child=
end() {  # exit code
  [ -z "$child" ] || kill -TERM "$child" 2> /dev/null || true
  wait || true
  exit "$1"
}
trap 'end 130' INT
trap 'end 143' TERM

python() {
  local program=$root/.venv/bin/python
  if [ ! -x "$program" ]; then
    program=${PYTHON:-python3}
    "$program" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || {
      echo "error: $program is missing or older than Python 3.11; name another: PYTHON=python3.11 $0" >&2
      exit 1
    }
  fi
  "$program" "$@" &
  child=$!
  wait "$child"
  case " $* " in *" --help "* | *" -h "*) exit 0 ;; esac
}
