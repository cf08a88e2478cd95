#!/usr/bin/env bash
# Turn recordings and their translations into a folder that fairseq-train reads. prepare_speech.sh --help explains the
# arguments; $PYTHON names the Python to use, which is that of .venv if there is one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${PYTHON:-} ]]; then
    PYTHON=$root/.venv/bin/python
    [[ -x $PYTHON ]] || PYTHON=python3
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" -m fairseq_infformer.cli.prepare_speech "$@"
