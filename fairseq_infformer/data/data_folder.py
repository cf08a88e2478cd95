"""A data folder: its path, its splits, and what prepare.sh has noted about it in stats.json."""

import json
from pathlib import Path
from typing import Any

from fairseq.utils import split_paths

from fairseq_infformer.errors import InputError
from fairseq_infformer.files import sha256
from fairseq_infformer.vocabulary_files import DICTIONARY

STATS = "stats.json"


def data_folders(data: str) -> list[Path]:
    """The folders in a data path of fairseq, joined by ':'; InputError if one of them is not a data folder."""
    folders = [Path(part) for part in split_paths(data)]
    for folder in folders:
        if not (file := folder / DICTIONARY).is_file():
            if len(folders) == 1:
                raise InputError(f"{file} does not exist; make the data with preprocess/prepare.sh")
            raise InputError(
                f"{data} is read as {len(folders)} folders joined by ':', and {file} does not exist; make that data "
                "with preprocess/prepare.sh, or rename the folder if the ':' is part of its path"
            )
    return folders


def refuse_colon(dest: Path) -> None:
    """InputError if fairseq would take a folder of this path for several."""
    if len(split_paths(str(dest))) > 1:
        raise InputError(f"--dest {dest} contains ':', at which fairseq splits data paths; give a path without it")


def read_stats(folder: Path) -> dict[str, Any]:
    """stats.json: ``dictionary``, ``splits`` and more. Where the file is missing, both are empty."""
    file = folder / STATS
    if not file.is_file():
        return {"dictionary": {}, "splits": {}}
    try:
        stats = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(stats[part], dict) for part in ("dictionary", "splits")):
            raise ValueError("parts are missing")
        return stats
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not as prepare.sh wrote it ({error}); prepare the data again") from error


def check_noted_dictionary(folder: Path) -> None:
    """InputError if dict.txt is not the dictionary that stats.json says the data was made with."""
    noted = read_stats(folder)["dictionary"].get("sha256")
    if noted and noted != sha256(folder / DICTIONARY):
        raise InputError(
            f"{folder / DICTIONARY} is not the dictionary that the data beside it was made with; prepare the data again"
        )


def check_noted_tokens(folder: Path, split: str, num_tokens: int) -> None:
    """InputError if stats.json says that a split has another number of tokens."""
    noted = read_stats(folder)["splits"].get(split, {}).get("tokens", num_tokens)
    if noted != num_tokens:
        raise InputError(
            f"{folder / STATS} counts {noted} tokens in {split}, but the data has {num_tokens}; prepare the data again"
        )


def parts_of_split(split: str, folder: Path) -> list[str]:
    """The parts of a split that fairseq reads as one: split, split1, split2, …"""
    parts = [split]
    while (folder / f"{split}{len(parts)}.idx").exists():
        parts.append(f"{split}{len(parts)}")
    return parts


def splits_in(folder: Path) -> list[str]:
    """Names of the binarised splits in a folder."""
    return sorted(path.stem for path in folder.glob("*.idx"))
