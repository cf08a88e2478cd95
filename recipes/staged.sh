# Sourced by staged recipes: the environment, --stage/--stop-stage, and what every stage starts with.
#
# A recipe sets `root` before, calls `read_options`, and wraps each step in `if stage N "what it does"; then … fi`.
set -euo pipefail

stage=0
stop_stage=1000
venv=$root/.venv/bin
# fairseq's first lines are deprecation warnings of its own libraries.
export PYTHONWARNINGS=ignore PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
# The environment is made by the caller's Python; all else runs in the environment.
callers_python=${PYTHON:-python3}
export PYTHON=$venv/python

die() { echo "error: $*" >&2; exit 2; }

# read_options "NAME NAME..." "$@": sets the variable NAME for each "--NAME VALUE", and the array `further` to what
# follows "--". --help prints the comment on top of the recipe.
read_options() {
  local known=" $1 stage stop_stage " name
  shift
  further=()
  while [ $# -gt 0 ]; do
    case $1 in
      -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
      --) shift; further=("$@"); break ;;
    esac
    name=${1#--} name=${name//-/_}
    [[ $1 == --* && $known == *" $name "* ]] || die "unknown argument $1; see --help"
    [ $# -gt 1 ] || die "$1 needs a value"
    printf -v "$name" %s "$2"
    shift 2
  done
  for name in stage stop_stage; do
    [[ ${!name} =~ ^[0-9]+$ ]] || die "--${name/_/-} must be a number, got ${!name}"
  done
  [ "$stage" -le "$stop_stage" ] || die "--stage $stage comes after --stop-stage $stop_stage: nothing would be done"
}

stage() {
  [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] || return 1
  echo "--- stage $1: $2" >&2
}

install() { PYTHON=$callers_python "$root/recipes/setup.sh" "$@"; }
