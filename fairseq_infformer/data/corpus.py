"""Raw text as it is found: its splits, its lines, its counts and the lines at which its documents start."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from fairseq_infformer.data.gpt2 import END_OF_TEXT
from fairseq_infformer.errors import InputError

SPLITS = ("train", "valid", "test")
DOCUMENT_RULES = ("wikitext", "blank-line", "file", "endoftext")
BYTE_ORDER_MARK = "\ufeff"
# White space, and what has no width: soft hyphens, joiners, marks of direction and of byte order.
BLANK = re.compile(r"[\s\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*")
# What archives and compressed files are known by: bytes, and where they stand.
ARCHIVES = {
    "zip": (0, b"PK\x03\x04"),
    "gzip": (0, b"\x1f\x8b"),
    "bzip2": (4, b"1AY&SY"),
    "xz": (0, b"\xfd7zXZ\x00"),
    "zstd": (0, b"\x28\xb5\x2f\xfd"),
    "7z": (0, b"7z\xbc\xaf\x27\x1c"),
    "tar": (257, b"ustar"),
}


def find_splits(raw: Path) -> dict[str, Path]:
    """The file or folder of each split, by a word of its name; a corpus may lack test, but neither train nor valid.

    Where no name has such a word, as in ``mytrain.txt``, a part of a word will do. Hidden files are no candidates.
    Whatever leaves room for doubt is an InputError.
    """
    if raw.is_file():
        refuse_archive(raw)
    if not raw.is_dir():
        raise InputError(f"--raw {raw} is not a folder; give the folder that holds the splits")
    entries = sorted(entry for entry in raw.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        _refuse_name(entry)
    matching = {split: [entry for entry in entries if _names_split(entry, split)] for split in SPLITS}
    if not any(matching.values()):
        matching = {split: [entry for entry in entries if split in entry.name.lower()] for split in SPLITS}
    found: dict[str, Path] = {}
    for split, named in matching.items():
        if len(named) > 1:
            raise InputError(f"{raw} has {len(named)} candidates for {split}: {_names(named)}; leave one")
        if named and named[0] in found.values():
            raise InputError(f"{named[0]} could be two splits by its name; name it after one of {', '.join(SPLITS)}")
        if named:
            found[split] = named[0]
        elif split != "test":
            raise InputError(
                f"{raw} has no {split} split, only {_names(entries) or 'nothing'}; "
                f"cut the text into files or folders named *train*, *valid* and, if wanted, *test*"
            )
    return found


def _names_split(entry: Path, split: str) -> bool:
    # contest_rules.md is no test split.
    letter = r"[^\W\d_]"
    word = f"(?<!{letter}){split}(?:ing|ation)?(?:set|data)?(?!{letter})"
    return re.search(word, entry.name, re.IGNORECASE) is not None


def _names(paths: list[Path], most: int = 5) -> str:
    return ", ".join(path.name for path in paths[:most]) + (f", … ({len(paths)} in all)" if len(paths) > most else "")


def files_of(entry: Path) -> list[Path]:
    """The files of a split: itself, or those of its folder in the order of their names."""
    files = [entry]
    if entry.is_dir():
        files = sorted(file for file in entry.iterdir() if not file.name.startswith("."))
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is not a file; a split is one file or a folder that holds files only")
        refuse_archive(file)
        _refuse_name(file)
    if not files:
        raise InputError(f"{entry} is an empty folder; put the text of the split there")
    return files


def _refuse_name(path: Path) -> None:
    # Names are printed, and noted in stats.json: a control character could do anything to a terminal, and what is not
    # UTF-8 (a surrogate here) cannot be written.
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in path.name):
        raise InputError(f"the name {path.name!a} in {path.parent} is not plain UTF-8 text; rename it")


def refuse_archive(file: Path) -> None:
    """InputError if a file is an archive or compressed: none is unpacked here."""
    with file.open("rb") as stream:
        head = stream.read(512)
    for kind, (place, sign) in ARCHIVES.items():
        if head[place:].startswith(sign):
            raise InputError(f"{file} is a {kind} file; unpack it, and give the folder with the text")


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_lines(file: Path) -> Iterator[str]:
    """Lines without their end, which is LF or CRLF and nothing else; InputError where the file is not UTF-8.

    A byte order mark at the start of a line goes: files that were joined have them inside.
    """
    offset = 0
    # In binary, because text mode would also end a line at a stray CR and would not know the offset of an error.
    with file.open("rb") as stream:
        for raw in stream:
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{file} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {offset + error.start}; "
                    "convert it, for example with iconv -f ISO-8859-1 -t UTF-8"
                ) from None
            if offset == 0 and "\r" in line and not line.endswith("\n"):
                raise InputError(f"{file} ends its lines with CR alone; convert it, for example with tr '\\r' '\\n'")
            line = line.lstrip(BYTE_ORDER_MARK)
            offset += len(raw)
            # A stray CR is a space: fairseq, which reads this text next, would take it for the end of a line.
            yield line.removesuffix("\n").removesuffix("\r").replace("\r", " ")


def clean(
    files: list[Path],
    text: Path,
    rule: str | None = None,
    reserved: frozenset[str] = frozenset(),
    progress: Callable[[int], object] = lambda num_bytes: None,
) -> tuple[dict[str, int], np.ndarray]:
    """Write files as one text of LF-ended lines.

    Args:
        files: the files of a split, in order.
        text: file to write.
        rule: where documents start, one of DOCUMENT_RULES; None: the text is one document.
        reserved: words that the text must not have.
        progress: told the bytes of every file that was read.

    Returns:
        lines, words (with one line end a line) and bytes of the text; and the numbers of the lines, from 0, at
        which documents start.
    """
    lines = words = 0
    has_text = False
    marked = []  # the lines before which documents end, by the rules file and endoftext
    with text.open("w", encoding="utf-8", newline="\n") as out:
        for file in files:
            if rule == "file":
                marked.append(lines)
            for line in read_lines(file):
                if rule == "endoftext" and END_OF_TEXT in line:
                    if line != END_OF_TEXT:
                        raise InputError(f"{file} has {END_OF_TEXT} in a line with other text; give it its own line")
                    marked.append(lines)
                    continue
                in_line = line.split()
                if not reserved.isdisjoint(in_line):
                    word = next(word for word in in_line if word in reserved)
                    raise InputError(f"{file} has the word {word}, which fairseq keeps for itself; write it otherwise")
                lines += 1
                words += len(in_line) + 1
                has_text = has_text or not is_blank(line)
                out.write(line + "\n")
            progress(file.stat().st_size)
    if not has_text:
        raise InputError(f"{_names(files)} has no text; give a split that is not empty")

    if rule in ("wikitext", "blank-line"):
        with text.open(encoding="utf-8", newline="\n") as written:
            starts = document_starts(written, rule)
        if not starts:
            raise InputError(f"{_names(files)} has no line ' = Title = ' between blank lines; give another --documents")
    else:
        if rule == "endoftext" and not marked:
            raise InputError(f"{_names(files)} has no line {END_OF_TEXT}; give another --documents")
        # A document without a line, such as an empty file, starts where the next one does, or behind the last line.
        starts = sorted({0, *(start for start in marked if start < lines)})
    return {"lines": lines, "words": words, "bytes": text.stat().st_size}, np.array(starts, dtype=np.int64)


def is_blank(line: str) -> bool:
    """Whether a line shows nothing: white space and characters without width."""
    return BLANK.fullmatch(line) is not None


def document_starts(lines: Iterable[str], rule: str) -> list[int]:
    """Numbers of the lines at which documents start, by the rule ``wikitext`` or ``blank-line``.

    Blank lines at the head of the text belong to the first document, all others to the one that they follow. Text
    before the first WikiText title is a document of its own. Without any title the list is empty.
    """
    starts: list[int] = []
    titles = 0
    before = ""
    for number, (line, after) in enumerate(pairwise(chain(lines, [""]))):
        if not is_blank(line):
            title = rule == "wikitext" and is_blank(before) and is_blank(after) and _is_title(line)
            titles += title
            if not starts:
                starts.append(0)
            elif title or (rule == "blank-line" and is_blank(before)):
                starts.append(number)
        before = line
    return starts if titles or rule != "wikitext" else []


def _is_title(line: str) -> bool:
    # " = Title = ", one "=" on each side; " = = Section = = " is not.
    words = line.split()
    return len(words) >= 3 and words[0] == words[-1] == "=" and "=" not in (words[1], words[-2])
