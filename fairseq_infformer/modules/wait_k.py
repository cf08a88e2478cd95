"""The wait-k policy over fixed pre-decision (Ma, Huang et al. 2019; Ma, Pino and Koehn 2020)."""

from typing import Optional

import torch
from torch import Tensor

from .settings import SettingError


def visible_states(lengths: Tensor, words: int, wait_k: Optional[int], pre_decision: int) -> Tensor:
    """How many states of the encoder each target word may see.

    Every r states are one read. Word i, from 0, is written after k + i reads, or once all is read.

    Args:
        lengths: (B,), on the CPU: states of each row. words: W. wait_k: k; None waits for all. pre_decision: r.

    Returns:
        (B, W), on the CPU.

    Raises:
        SettingError: if k or r is not positive.
    """
    check_policy(wait_k, pre_decision)
    if wait_k is None:
        return lengths[:, None].expand(-1, words)
    return torch.minimum(lengths[:, None], (wait_k + torch.arange(words)) * pre_decision)


def check_policy(wait_k: Optional[int], pre_decision: int) -> None:
    """SettingError if k = ``wait_k``, None for all, or r = ``pre_decision`` is not positive."""
    for name, value in (("wait_k", wait_k), ("pre_decision", pre_decision)):
        if value is not None and value <= 0:
            raise SettingError(name, f"must be positive, got {value}")
