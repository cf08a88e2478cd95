"""The files of a binarised split, checked before they are read: truncated or mixed-up files are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import MMapIndexedDataset, _code_to_dtype, infer_dataset_impl

from fairseq_infformer.errors import InputError, one_line

# MMapIndexedDataset's: magic, version (8 bytes), code of the tokens' dtype (1), number of lines (8).
HEADER_BYTES = len(MMapIndexedDataset.Index._HDR_MAGIC) + 17
LINE_BYTES = 4 + 8  # a line's number of tokens and its offset
BLOCK = 1 << 24  # tokens that are checked together


def load_lines(prefix: Path, dictionary: Dictionary) -> Any:
    """The lines of tokens in ``prefix.bin`` and ``.idx``, an indexed dataset; InputError if a file is damaged.

    None if the split has no files.
    """
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for file, other in ((index, data), (data, index)):
        if other.is_file() and not file.is_file():
            raise InputError(f"{other} has no {file.name} beside it; copy it there or prepare the data again")
    file_format = infer_dataset_impl(str(prefix)) if index.is_file() else None
    if index.is_file() and file_format is None:
        raise InputError(f"{index} is not an index that fairseq wrote; prepare the data again")
    if file_format == "mmap":
        _check_memory_map(index, data)
    try:
        lines = data_utils.load_indexed_dataset(str(prefix), dictionary)
        if file_format == "cached":  # --dataset-impl lazy or cached: read into memory, which worker processes can share
            _check_size(data, index, lines.data_offsets[-1] * lines.element_size)
            lines.prefetch(range(len(lines)))
    except InputError:
        raise
    except Exception as error:  # in formats that are not checked above
        reason = one_line(error, with_type=True)
        raise InputError(f"{prefix} cannot be read ({reason}); prepare the data again") from error
    if lines is not None:
        _check_tokens(data, lines, dictionary)
    return lines


def _check_memory_map(index: Path, data: Path) -> None:
    # Read by hand: fairseq's own class would fail in its destructor too, where the error cannot be caught.
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
            f"{data} has {data.stat().st_size} bytes, but {index.name} implies {expected}: one of them is truncated or "
            "belongs to another corpus; prepare the data again"
        )
    if not expected:
        raise InputError(f"{data} is empty; prepare the data again")


def _check_tokens(data: Path, lines: Any, dictionary: Dictionary) -> None:
    for tokens in _blocks(data, lines):
        if (largest := int(tokens.max(initial=0))) >= len(dictionary):
            raise InputError(
                f"{data} contains token {largest}, but dict.txt has only {len(dictionary)} types: it belongs to "
                "another corpus; prepare the data again"
            )
        if (tokens == dictionary.pad()).any():  # no loss would count it
            raise InputError(
                f"{data} contains the word {dictionary.pad_word}, which fairseq reserves; replace it in the text, and "
                "prepare the data again"
            )


def _blocks(data: Path, lines: Any) -> Iterator[np.ndarray]:
    if isinstance(lines, MMapIndexedDataset):
        tokens = np.memmap(data, dtype=lines._index.dtype, mode="r")
        yield from (tokens[start : start + BLOCK] for start in range(0, len(tokens), BLOCK))
    else:
        yield from (lines[number].numpy() for number in range(len(lines)))


def load_document_starts(file: Path, num_tokens: int) -> np.ndarray:
    """Offsets (D,) int64 of the tokens that start a document; InputError if they do not match ``num_tokens``."""
    if not file.is_file():
        raise InputError(
            f"{file} does not exist, but --document-boundaries reset needs data prepared with --documents; prepare it "
            "so, or give --document-boundaries ignore to read it as one text"
        )
    try:
        starts = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{file} is truncated or is not a numpy array ({error}); prepare the data again") from error
    is_list = isinstance(starts, np.ndarray) and starts.ndim == 1 and starts.dtype == np.int64 and len(starts)
    if not (is_list and starts[0] == 0 and (np.diff(starts) > 0).all() and starts[-1] < num_tokens):
        raise InputError(f"{file} does not match the {num_tokens} tokens beside it; prepare the data again")
    return starts
