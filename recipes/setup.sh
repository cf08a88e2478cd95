#!/usr/bin/env bash
# Make .venv in this repository and install everything into it. Does nothing where that is done already.
#
#   recipes/setup.sh [--extras test,lint]
#
# It takes python3, or what PYTHON names: PYTHON=python3.11 recipes/setup.sh. Python 3.11 or newer is needed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
extras=""
python=${PYTHON:-python3}
while [ $# -gt 0 ]; do
  case $1 in
    --extras) [ $# -gt 1 ] || { echo "error: --extras needs a value" >&2; exit 2; }; extras=$2; shift 2 ;;
    -h|--help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown argument $1; see --help" >&2; exit 2 ;;
  esac
done

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
  echo "error: $python is missing or older than Python 3.11; name another: PYTHON=python3.11 $0" >&2
  exit 1
}
venv=$root/.venv
# What is installed is noted at the end, so that an interrupted installation is taken up again.
wanted=$(cat "$root/setup.py" "$root/recipes/setup.sh" | cksum)
for extra in "" ${extras//,/ }; do
  [ "$(cat "$venv/.installed$extra" 2>/dev/null)" = "$wanted" ] || needed=yes
done
[ -n "${needed:-}" ] || exit 0

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "installing into $venv: about 5 minutes, most of it to compile fairseq" >&2
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
pip install --upgrade pip
# fairseq compiles against the installed torch and numpy: with build isolation pip would fetch a second torch of
# several GB. Where there is no GPU, the CPU build of torch is enough.
pip install "torch==${TORCH_VERSION:-2.13.0}"
pip install "setuptools<81" wheel cython numpy
pip install --no-build-isolation fairseq-fixed==0.12.3.1
pip install --no-build-isolation --editable "$root[fairseq${extras:+,$extras}]"
# fairseq asks for a torchaudio that nothing here uses. Where it does not fit the installed torch, transformers, which
# imports what it finds, would fail with it.
"$venv/bin/python" -c "import torchaudio" 2>/dev/null || pip uninstall --yes torchaudio
for extra in "" ${extras//,/ }; do
  echo "$wanted" > "$venv/.installed$extra"
done
