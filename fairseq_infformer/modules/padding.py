"""Rows of unequal length in one tensor: what is past a row's length is a pad, and counts for nothing."""

from typing import Optional

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, width: int, device: Optional[torch.device] = None) -> Tensor:
    """(B, W) bool, True at the pads of rows with ``lengths`` (B,) of W = ``width`` vectors; absent device: the CPU."""
    return torch.arange(width, device=device) >= lengths.to(device)[:, None]


def zero_pads(x: Tensor, lengths: Tensor) -> Tensor:
    """``x`` (B, L, C) with zeros past ``lengths`` (B,), on the CPU.

    A weight of 0 is not enough, since 0 · inf is not 0.
    """
    if bool((lengths == x.shape[1]).all()):
        return x
    return x.masked_fill(padding_mask(lengths, x.shape[1]).to(x.device)[:, :, None], 0)
