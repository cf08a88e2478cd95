"""Corpora of speech translation: tables of recordings and their texts."""

import csv
from pathlib import Path

from fairseq_infformer.errors import InputError

SPLITS = ("train", "valid", "test")
NEEDED = ("id", "audio")


def read_table(file: Path, text: str) -> list[dict[str, str]]:
    """The rows of a table in fairseq's form: columns by name, separated by tabs, without quotes.

    Args:
        text: the column of the words.

    Raises:
        InputError: if a column is missing, a row is cut off, or there are no rows.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows, columns = list(table), table.fieldnames or []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as text in UTF-8; give a table with tabs between columns") from error
    for column in (*NEEDED, text):
        if column not in columns:
            raise InputError(f"{file} has no column {column}; it has {', '.join(columns) or 'none'}")
    for number, row in enumerate(rows, 2):
        if not row["audio"] or not (row[text] or "").strip():
            raise InputError(f"{file}, line {number}, lacks its audio or {text}; complete the line, or remove it")
    if not rows:
        raise InputError(f"{file} has no rows; give recordings and their texts")
    return rows


def write_table(file: Path, rows: list[dict[str, object]]) -> None:
    """Write rows, which have the same columns, as a table."""
    with file.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, list(rows[0]), delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)
        table.writeheader()
        table.writerows(rows)
