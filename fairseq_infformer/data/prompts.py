"""Prompts of any length, one per item, for fairseq's generators, and what follows them."""

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_infformer.data.streaming_dataset import TokenStream


class Prompts(FairseqDataset):
    """Texts that a model reads before it continues them.

    Args:
        prompts: 1-d int64 tensors, which may be empty.
        segment: how many tokens of a prompt the model reads at once, which is all that a longer one costs in memory.
        pad: of the dictionary.
        references: how each of them continues; absent: nobody knows.
    """

    def __init__(
        self, prompts: Sequence[Tensor], segment: int, pad: int, references: Optional[Sequence[Tensor]] = None
    ) -> None:
        super().__init__()
        self.prompts, self.segment, self.pad, self.references = prompts, segment, pad, references

    def __len__(self) -> int:
        return len(self.prompts)

    def num_tokens(self, index: int) -> int:
        return min(len(self.prompts[index]), self.segment)

    size = num_tokens

    def ordered_indices(self) -> np.ndarray:
        """By length, so that the rows of a batch wait little for each other."""
        return np.argsort([len(prompt) for prompt in self.prompts], kind="stable")

    def __getitem__(self, index: int) -> dict[str, Any]:
        reference = None if self.references is None else self.references[index]
        return {"id": index, "prompt": self.prompts[index], "reference": reference}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Prompts (B, T) with their lengths (B,), and references (B, R) or None, padded on the right."""
        if not samples:
            return {}
        prompts = [sample["prompt"] for sample in samples]
        references = [sample["reference"] for sample in samples]
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": sum(map(len, prompts)),
            "net_input": {
                "src_tokens": pad_sequence(prompts, batch_first=True, padding_value=self.pad),
                "src_lengths": torch.tensor([len(prompt) for prompt in prompts]),
            },
            "target": None if None in references else pad_sequence(references, True, self.pad),
        }


def starts_of_documents(
    tokens: TokenStream, documents: np.ndarray, prefix: int, longest: int, segment: int, end: int, pad: int
) -> Prompts:
    """The first ``prefix`` tokens of each document that is longer.

    A reference has what follows in the document, up to ``end``, which it includes, and ``longest`` tokens at most: as
    much as a generator could give.

    Args:
        documents: offsets (D,) of the tokens that start a document, the first of them 0.
    """
    prompts, references = [], []
    for start, stop in zip(documents, [*documents[1:], len(tokens)]):
        if start + prefix < stop:
            text = tokens.read(start, min(stop, start + prefix + longest))
            rest = text[prefix:]
            ends = (rest == end).nonzero()
            prompts.append(text[:prefix])
            references.append(rest[: int(ends[0]) + 1] if len(ends) else rest)
    return Prompts(prompts, segment, pad, references)
