"""Text as the token ids of a Hugging Face tokenizer.

A document is encoded as a whole, since a token may reach across a line end. One of more than a million characters is
cut at line ends. Tokens that the tokenizer would add at the start or end of a text, such as ``<s>``, are left out.
"""

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype
from tqdm import tqdm

from fairseq_infformer.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PART = 1 << 20  # characters that are encoded together


def binarize(
    text: Path, starts: np.ndarray, prefix: Path, tokenizer: "Tokenizer", num_types: int, workers: int
) -> tuple[np.ndarray, int, int]:
    """Write ``prefix.bin`` and ``prefix.idx`` from a text, which ``workers`` threads encode.

    Args:
        text: file of LF-ended lines. starts: numbers of the lines at which documents start, the first of them 0.
        num_types: of the dictionary.

    Returns:
        the token offsets of the documents that have tokens; the numbers of tokens, and of those that are unknown.
    """
    os.environ["RAYON_NUM_THREADS"] = str(workers)  # of the library's threads
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown_id, documents, offset, unknown = _unknown(tokenizer), [], 0, 0
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=best_fitting_int_dtype(num_types))
    waiting = _parts(text, set(starts.tolist()))
    with tqdm(
        total=text.stat().st_size, desc=f"binarise {prefix.name}", unit="B", unit_scale=True, disable=None
    ) as bar:
        while several := list(islice(waiting, workers)):
            encoded = tokenizer.encode_batch_fast([part for _, part in several], add_special_tokens=False)
            for (first, part), encoding in zip(several, encoded):
                ids = torch.tensor(encoding.ids, dtype=torch.int64)
                if first:
                    documents.append(offset)
                builder.add_item(ids)
                offset, unknown = offset + len(ids), unknown + int((ids == unknown_id).sum())
                bar.update(len(part.encode()))
    builder.finalize(f"{prefix}.idx")
    if not offset:
        raise InputError(f"the tokenizer turns {prefix.name} into no token at all; give another --tokenizer")
    found = np.unique(np.array(documents, dtype=np.int64))
    return found[found < offset], offset, unknown


def _parts(text: Path, starts: set[int]) -> Iterator[tuple[bool, str]]:
    """Whether a document starts, and what of it is encoded together."""
    lines, length, first = [], 0, True
    with text.open(encoding="utf-8", newline="\n") as source:
        for number, line in enumerate(source):
            start = number in starts
            if lines and (start or length > PART):
                yield first, "".join(lines)
                lines, length, first = [], 0, start
            lines.append(line)
            length += len(line)
    if lines:
        yield first, "".join(lines)


def _unknown(tokenizer: "Tokenizer") -> int:
    """The id of what has no token; -1 if everything has one."""
    model = json.loads(tokenizer.to_str())["model"]
    if (token := model.get("unk_token")) is not None:
        return tokenizer.token_to_id(token)
    return -1 if model.get("unk_id") is None else model["unk_id"]
