"""Prompts of documents, and their batches."""

import numpy as np
import torch

from fairseq_infformer.data.prompts import Prompts, starts_of_documents
from fairseq_infformer.data.streaming_dataset import TokenStream

END, PAD = 2, 1


def test_starts_of_documents_have_what_follows_up_to_the_end_of_the_line():
    """Of four documents: the second has only the prefix, the third a line end after it."""
    tokens = torch.tensor([10, 11, 12, 13, 14, 15, 16, 20, 21, 30, 31, 32, 2, 33, 40, 2, 41])
    stream = TokenStream(tokens.split([9, 8]), np.array([9, 8]))
    prompts = starts_of_documents(stream, np.array([0, 7, 9, 14]), 2, longest=4, segment=8, end=END, pad=PAD)
    assert [prompt.tolist() for prompt in prompts.prompts] == [[10, 11], [30, 31], [40, 2]]
    assert [reference.tolist() for reference in prompts.references] == [[12, 13, 14, 15], [32, 2], [41]]


def test_prompts_come_in_batches_padded_on_the_right():
    prompts = Prompts([torch.arange(4, 4 + length) for length in (30, 0, 1)], 8, PAD)
    assert [prompts.num_tokens(index) for index in range(3)] == [8, 0, 1]
    assert prompts.ordered_indices().tolist() == [1, 2, 0]
    batch = prompts.collater([prompts[1], prompts[2]])
    assert batch["net_input"]["src_tokens"].tolist() == [[PAD], [4]]
    assert batch["net_input"]["src_lengths"].tolist() == [0, 1] and batch["target"] is None
    assert prompts.collater([prompts[1]])["net_input"]["src_tokens"].shape == (1, 0)
    assert prompts.collater([]) == {}
