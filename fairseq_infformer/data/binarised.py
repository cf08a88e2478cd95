"""The files of a binarised corpus, looked at before they are read: what was cut short or mixed up is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import MMapIndexedDataset, _code_to_dtype, infer_dataset_impl

from fairseq_infformer.errors import InputError

# MMapIndexedDataset's: magic, version (8 bytes), code of the tokens' dtype (1), number of lines (8).
HEADER_BYTES = len(MMapIndexedDataset.Index._HDR_MAGIC) + 17
LINE_BYTES = 4 + 8  # a line's number of tokens and its place


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
        _check_memory_map(index, data, len(dictionary))
    try:
        return data_utils.load_indexed_dataset(str(prefix), dictionary)
    except Exception as error:  # formats that are not looked into here
        raise InputError(f"{prefix} cannot be read ({type(error).__name__}: {error}); prepare it again") from error


def _check_memory_map(index: Path, data: Path, num_types: int) -> None:
    # By hand: fairseq's own class fails in its destructor too, where no one can catch it.
    with index.open("rb") as stream:
        header = stream.read(HEADER_BYTES)
        num_lines = int.from_bytes(header[-8:], "little")
        dtype = _code_to_dtype.get(header[-9]) if len(header) == HEADER_BYTES else None
        if dtype is None or index.stat().st_size != HEADER_BYTES + num_lines * LINE_BYTES:
            raise InputError(f"{index} is cut short or damaged; prepare the data again")
        sizes = np.fromfile(stream, dtype=np.int32, count=num_lines)
    expected = int(sizes.sum(dtype=np.int64)) * np.dtype(dtype).itemsize
    if (sizes < 0).any() or data.stat().st_size != expected:
        raise InputError(
            f"{data} has {data.stat().st_size} bytes, {index.name} speaks of {expected}: one is cut short or belongs "
            "to another corpus; prepare the data again"
        )
    if not expected:
        raise InputError(f"{data} is empty; prepare the data again")
    largest = int(np.memmap(data, dtype=dtype, mode="r").max())
    if largest >= num_types:
        raise InputError(
            f"{data} holds token {largest}, dict.txt has {num_types} types: it belongs to another corpus; "
            "prepare the data again"
        )


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
        raise InputError(f"{file} is cut short or no array of numpy's ({error}); prepare the data again") from error
    fits = isinstance(starts, np.ndarray) and starts.ndim == 1 and starts.dtype == np.int64 and len(starts)
    if not (fits and starts[0] == 0 and (np.diff(starts) > 0).all() and starts[-1] < num_tokens):
        raise InputError(f"{file} does not fit the {num_tokens} tokens beside it; prepare the data again")
    return starts
