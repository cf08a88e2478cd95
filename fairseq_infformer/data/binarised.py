"""The files of a binarised corpus, looked at before they are read: what was cut short or mixed up is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import MMapIndexedDataset, _code_to_dtype, infer_dataset_impl
from fairseq.utils import split_paths

from fairseq_infformer.errors import InputError

# MMapIndexedDataset's: magic, version (8 bytes), code of the tokens' dtype (1), number of lines (8).
HEADER_BYTES = len(MMapIndexedDataset.Index._HDR_MAGIC) + 17
LINE_BYTES = 4 + 8  # a line's number of tokens and its place
BLOCK = 1 << 24  # tokens that are looked at together


def data_folders(data: str) -> list[Path]:
    """The folders that a data path of fairseq names, joined by ':'; InputError if one of them is no data."""
    folders = [Path(part) for part in split_paths(data)]
    for folder in folders:
        if not (file := folder / "dict.txt").is_file():
            if len(folders) == 1:
                raise InputError(f"{file} does not exist; make the data with preprocess/prepare.sh")
            raise InputError(
                f"{data} is read as {len(folders)} folders joined by ':', and {file} does not exist; make that data "
                "with preprocess/prepare.sh, or rename the folder if the ':' is part of its path"
            )
    return folders


def refuse_colon(dest: Path) -> None:
    """InputError if data in a folder of this path could not be read: fairseq would take it for several."""
    if len(split_paths(str(dest))) > 1:
        raise InputError(f"--dest {dest} has a ':', at which fairseq splits the paths of data; give one without it")


def load_dictionary(file: Path) -> Dictionary:
    """A fairseq dictionary from its file; InputError if it is none."""
    try:
        dictionary = Dictionary.load(str(file))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file} cannot be read as a fairseq dictionary ({reason}); give a dict.txt made by prepare.sh"
        ) from error
    if len(dictionary) == dictionary.nspecial:
        raise InputError(f"{file} has no words; give a dict.txt made by prepare.sh")
    return dictionary


def read_stats(directory: Path) -> dict[str, Any]:
    """What prepare.sh has noted beside the data: ``dictionary``, ``splits`` and more. Without a note both are empty."""
    file = directory / "stats.json"
    if not file.is_file():
        return {"dictionary": {}, "splits": {}}
    try:
        stats = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(stats[part], dict) for part in ("dictionary", "splits")):
            raise ValueError("parts are missing")
        return stats
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not what prepare.sh has written ({error}); prepare the data again") from error


def load_lines(prefix: Path, dictionary: Dictionary) -> Any:
    """The lines of tokens in ``prefix.bin`` and ``.idx``, an indexed dataset; InputError if the files are not whole."""
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for file, other in ((index, data), (data, index)):
        if other.is_file() and not file.is_file():
            raise InputError(f"{other} has no {file.name} beside it; copy it there or prepare the data again")
    kind = infer_dataset_impl(str(prefix)) if index.is_file() else None
    if index.is_file() and kind is None:
        raise InputError(f"{index} is no index of fairseq's; prepare the data again")
    if kind == "mmap":
        _check_memory_map(index, data)
    try:
        lines = data_utils.load_indexed_dataset(str(prefix), dictionary)
        if kind == "cached":  # of --dataset-impl lazy or cached: read into memory, which worker processes can share
            _check_size(data, index, lines.data_offsets[-1] * lines.element_size)
            lines.prefetch(range(len(lines)))
    except InputError:
        raise
    except Exception as error:  # formats that are not looked into here
        raise InputError(f"{prefix} cannot be read ({type(error).__name__}: {error}); prepare it again") from error
    if lines is not None:
        _check_tokens(data, lines, dictionary)
    return lines


def _check_memory_map(index: Path, data: Path) -> None:
    # By hand: fairseq's own class fails in its destructor too, where no one can catch it.
    with index.open("rb") as stream:
        header = stream.read(HEADER_BYTES)
        num_lines = int.from_bytes(header[-8:], "little")
        dtype = _code_to_dtype.get(header[-9]) if len(header) == HEADER_BYTES else None
        if dtype is None or index.stat().st_size != HEADER_BYTES + num_lines * LINE_BYTES:
            raise InputError(f"{index} is truncated or damaged; prepare the data again")
        sizes = np.fromfile(stream, dtype=np.int32, count=num_lines)
    if (sizes < 0).any():
        raise InputError(f"{index} is damaged; prepare the data again")
    _check_size(data, index, int(sizes.sum(dtype=np.int64)) * np.dtype(dtype).itemsize)


def _check_size(data: Path, index: Path, expected: int) -> None:
    if data.stat().st_size != expected:
        raise InputError(
            f"{data} has {data.stat().st_size} bytes, {index.name} speaks of {expected}: one is truncated or belongs "
            "to another corpus; prepare the data again"
        )
    if not expected:
        raise InputError(f"{data} is empty; prepare the data again")


def _check_tokens(data: Path, lines: Any, dictionary: Dictionary) -> None:
    for tokens in _blocks(data, lines):
        if (largest := int(tokens.max(initial=0))) >= len(dictionary):
            raise InputError(
                f"{data} holds token {largest}, dict.txt has {len(dictionary)} types: it belongs to another corpus; "
                "prepare the data again"
            )
        if (tokens == dictionary.pad()).any():  # which no loss counts
            raise InputError(
                f"{data} holds the word {dictionary.pad_word}, which fairseq keeps for itself; write it otherwise in "
                "the text, and prepare the data again"
            )


def _blocks(data: Path, lines: Any) -> Iterator[np.ndarray]:
    if isinstance(lines, MMapIndexedDataset):
        tokens = np.memmap(data, dtype=lines._index.dtype, mode="r")
        yield from (tokens[start : start + BLOCK] for start in range(0, len(tokens), BLOCK))
    else:
        yield from (lines[number].numpy() for number in range(len(lines)))


def load_document_starts(file: Path, num_tokens: int) -> np.ndarray:
    """Offsets (D,) int64 of the tokens that start a document; InputError if they do not fit ``num_tokens``."""
    if not file.is_file():
        raise InputError(
            f"{file} does not exist: --document-boundaries reset needs data prepared with --documents; "
            "give --document-boundaries ignore to read it as one text"
        )
    try:
        starts = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{file} is truncated or is not a numpy array ({error}); prepare the data again") from error
    fits = isinstance(starts, np.ndarray) and starts.ndim == 1 and starts.dtype == np.int64 and len(starts)
    if not (fits and starts[0] == 0 and (np.diff(starts) > 0).all() and starts[-1] < num_tokens):
        raise InputError(f"{file} does not fit the {num_tokens} tokens beside it; prepare the data again")
    return starts
