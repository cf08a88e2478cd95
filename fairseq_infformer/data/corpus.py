"""Raw text: its splits, its lines, its counts and the lines at which its documents start."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from fairseq_infformer.errors import InputError
from fairseq_infformer.vocabulary_files import END_OF_TEXT

SPLITS = ("train", "valid", "test")
DOCUMENT_RULES = ("wikitext", "blank-line", "file", "endoftext")
BYTE_ORDER_MARK = "\ufeff"
# White space and characters without width: soft hyphens, joiners, marks of direction and of byte order.
BLANK = re.compile(r"[\s\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*")
# The signatures of archives and compressed files: their offset and their bytes.
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

    If no name has such a word, a part of a word counts too, as in ``mytrain.txt``. Hidden files are ignored. Anything
    ambiguous is an InputError.
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
    splits: dict[str, Path] = {}
    for split, named in matching.items():
        if len(named) > 1:
            raise InputError(f"{raw} has {len(named)} candidates for {split}: {_names(named)}; keep one of them")
        if named and named[0] in splits.values():
            raise InputError(f"the name of {named[0]} fits two splits; name it after one of {', '.join(SPLITS)}")
        if named:
            splits[split] = named[0]
        elif split != "test":
            content = f"only {_names(entries)}" if entries else "because it is empty"
            raise InputError(
                f"{raw} has no {split} split, {content}; cut the text into files or folders named *train*, *valid* "
                "and, optionally, *test*"
            )
    return splits


def _names_split(entry: Path, split: str) -> bool:
    # Words, not letters: contest_rules.md is not a test split.
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
            raise InputError(f"{file} is not a file; a split must be one file, or a folder that holds only files")
        refuse_archive(file)
        _refuse_name(file)
    if not files:
        raise InputError(f"{entry} is an empty folder; put the text of the split there")
    return files


def _refuse_name(path: Path) -> None:
    # Names are printed and written to stats.json: a control character could do anything to a terminal, and a name
    # that is not UTF-8 (it has surrogates in Python) cannot be written.
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in path.name):
        raise InputError(f"the name {path.name!a} in {path.parent} is not plain UTF-8 text; rename it")


def refuse_archive(file: Path) -> None:
    """InputError if a file is an archive or compressed, since none is unpacked."""
    with file.open("rb") as stream:
        head = stream.read(512)
    for archive, (offset, signature) in ARCHIVES.items():
        if head[offset:].startswith(signature):
            raise InputError(f"{file} is a {archive} file; unpack it, and give the folder with the text")


def read_lines(file: Path) -> Iterator[str]:
    """Lines without their end, which is LF or CRLF and nothing else; InputError if the file is not UTF-8.

    Byte order marks at the start of a line are removed: joined files have some in the middle.
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
                raise InputError(f"{file} ends its lines with CR only; convert it, for example with tr '\\r' '\\n'")
            line = line.lstrip(BYTE_ORDER_MARK)
            offset += len(raw)
            # A stray CR becomes a space, because fairseq, which reads this text next, would end the line there.
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
        reserved: words that the text must not contain.
        progress: called with the size of every file that was read, in bytes.

    Returns:
        lines, words (counting each line's end as one) and bytes of the text; and the numbers of the lines, from 0, at
        which documents start.
    """
    lines = words = 0
    has_text = False
    marks = []  # the lines before which documents start, by the rules file and endoftext
    with text.open("w", encoding="utf-8", newline="\n") as out:
        for file in files:
            if rule == "file":
                marks.append(lines)
            for line in read_lines(file):
                if rule == "endoftext" and _is_end_of_text(line, file):
                    marks.append(lines)
                    continue
                in_line = line.split()
                if not reserved.isdisjoint(in_line):
                    word = next(word for word in in_line if word in reserved)
                    raise InputError(f"{file} contains the word {word}, which fairseq reserves; replace it")
                lines += 1
                words += len(in_line) + 1
                has_text = has_text or not is_blank(line)
                out.write(line + "\n")
            progress(file.stat().st_size)
    if not has_text:
        raise InputError(f"{_names(files)} has no text; give a split that is not empty")
    starts = _starts(files, text, rule, marks, lines)
    return {"lines": lines, "words": words, "bytes": text.stat().st_size}, np.array(starts, dtype=np.int64)


def _is_end_of_text(line: str, file: Path) -> bool:
    if END_OF_TEXT in line and line != END_OF_TEXT:
        raise InputError(f"{file} has {END_OF_TEXT} in a line with other text; put it on a line of its own")
    return line == END_OF_TEXT


def _starts(files: list[Path], text: Path, rule: str | None, marks: list[int], lines: int) -> list[int]:
    if rule in ("wikitext", "blank-line"):
        with text.open(encoding="utf-8", newline="\n") as written:
            starts = document_starts(written, rule)
        if not starts:
            raise InputError(f"{_names(files)} has no line ' = Title = ' between blank lines; give another --documents")
        return starts
    if rule == "endoftext" and not marks:
        raise InputError(f"{_names(files)} has no line {END_OF_TEXT}; give another --documents")
    # A document without a line, such as an empty file, starts where the next one does, or after the last line.
    return sorted({0, *(start for start in marks if start < lines)})


def is_blank(line: str) -> bool:
    """Whether a line shows nothing, since it has only white space and characters without width."""
    return BLANK.fullmatch(line) is not None


def document_starts(lines: Iterable[str], rule: str) -> list[int]:
    """Numbers of the lines at which documents start, by the rule ``wikitext`` or ``blank-line``.

    Blank lines at the start of the text belong to the first document, all others to the document before them. Text
    before the first WikiText title is a separate document. If no title occurs, the list is empty.
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
