"""Copy the source text of Python's standard library into folders train, valid and test, one file per module.

Which split a module is in depends on its name alone: one in ten is in valid, one in ten in test. Tests, and modules of
less than 4,000 characters, are left out.
"""

import argparse
import hashlib
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEAST = 4000  # characters
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3"}


def modules(library: Path) -> Iterator[tuple[str, str]]:
    """Name, such as ``json.decoder``, and text of each module of a folder."""
    for file in sorted(library.rglob("*.py")):
        parts = file.relative_to(library).with_suffix("").parts
        if LEFT_OUT & set(parts):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        if len(text) >= LEAST:
            yield ".".join(parts), text


def split_of(name: str) -> str:
    """The split that a module of this name is in."""
    tenth = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10
    return {0: "valid", 1: "test"}.get(tenth, "train")


def collect(library: Path, dest: Path) -> dict[str, int]:
    """Write the splits of a library's folder into ``dest``, whole or not at all; how many modules each has."""
    beside = dest.with_name(f"{dest.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    counts = dict.fromkeys(("train", "valid", "test"), 0)
    for split in counts:
        (beside / split).mkdir(parents=True)
    for name, text in modules(library):
        split = split_of(name)
        (beside / split / f"{name}.txt").write_text(text, encoding="utf-8")
        counts[split] += 1
    beside.rename(dest)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path, help="the folder to make")
    dest = parser.parse_args().dest
    if dest.exists():
        print(f"{dest} exists: nothing to do")
        return
    counts = collect(Path(sysconfig.get_path("stdlib")), dest)
    shown = ", ".join(f"{split} {count}" for split, count in counts.items())
    print(f"{dest}: modules of Python {sys.version.split()[0]}: {shown}")


if __name__ == "__main__":
    main()
