"""Run a training to its end, once: ``python -m recipes.train FOLDER COMMAND...``

COMMAND is noted in FOLDER/launches.jsonl with the commit and the hardware, its output goes to FOLDER/train.log, and
FOLDER/done says that it has ended well. A training that was stopped resumes by the same command, one that has ended is
not repeated, and one of other arguments in the same folder is refused.
"""

import subprocess
import sys
from pathlib import Path

from recipes import launches

DONE = "done"
LOG = "train.log"


def main() -> None:
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    launches.check(folder, command)
    if (folder / DONE).exists():
        print(f"{folder} is trained already", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    launches.note(folder, command)
    with (folder / LOG).open("ab") as log:
        try:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
        except KeyboardInterrupt:
            sys.exit(130)
    if code:
        launches.die(f"training {folder} failed: {reason(folder / LOG)}", 1)
    (folder / DONE).touch()


def reason(log: Path) -> str:
    """The last error in a log, or where to look for it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-100:]
    errors = [line for line in lines if "error: " in line.lower() and "ChildFailedError" not in line]
    return errors[-1] if errors else f"see {log}"


if __name__ == "__main__":
    main()
