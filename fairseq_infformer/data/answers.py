"""Answers in a text, the only targets under ``--score answers``: the words between <answer> and </answer>."""

from pathlib import Path

import numpy as np
from fairseq.data import Dictionary

from fairseq_infformer.errors import InputError

from .streaming_dataset import TokenStream

ANSWER, END_OF_ANSWER = "<answer>", "</answer>"


def find_answers(tokens: TokenStream, dictionary: Dictionary, split: Path) -> np.ndarray:
    """Offsets (A, 2) at which the answers of a split start and stop; InputError if it has none, or a broken one."""
    if ANSWER not in dictionary or END_OF_ANSWER not in dictionary:
        raise InputError(
            f"--score answers needs the words {ANSWER} and {END_OF_ANSWER}, which dict.txt lacks; leave it out, or "
            "prepare a text that has them"
        )
    starts = tokens.find(dictionary.index(ANSWER)) + 1
    stops = tokens.find(dictionary.index(END_OF_ANSWER))
    paired = len(starts) > 0 and len(starts) == len(stops)
    if not (paired and (starts < stops).all() and (stops[:-1] < starts[1:]).all()):
        raise InputError(
            f"{split} has {len(starts)} {ANSWER} and {len(stops)} {END_OF_ANSWER}, which must alternate with words "
            "between them; correct the text and prepare it again"
        )
    return np.stack([starts, stops], axis=1)
