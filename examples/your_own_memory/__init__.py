"""A long-term memory of your own: the mean of all vectors that have left the short-term memory.

fairseq-train DATA --user-dir examples/your_own_memory --long-term-memory mean --mean-scale 2 …
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

import fairseq_infformer.plugin  # noqa: F401  (registers the task and the models)
from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.memories import LongTermMemory, Read, SettingError, register_memory
from fairseq_infformer.modules.padding import zero_pads
from fairseq_infformer.modules.state import detached, emptied, reordered


class MeanState(NamedTuple):  # what B rows remember: tensors, which checkpoints hold under their names
    total: Tensor  # (B, C)
    count: Tensor  # (B,) int64, on the CPU: how many vectors were added up

    detach, reorder, reset = detached, reordered, emptied  # methods that suit any state whose zeros are empty

    def is_empty(self) -> Tensor:
        return self.count == 0


@dataclass
class MeanSettings:  # each becomes an option: --mean-scale
    scale: float = field(default=1.0, metadata={"help": "what the mean is multiplied with"})


@register_memory("mean", settings=MeanSettings)
class MeanMemory(LongTermMemory):  # which documents the arguments of its methods
    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        if scale <= 0:
            raise SettingError("scale", f"must be positive, got {scale}")
        self.dim, self.scale, self.projection = dim, scale, nn.Linear(dim, dim, bias=False)

    @classmethod
    def build(cls, settings: MeanSettings, embed_dim: int, num_heads: int, layer: int) -> "MeanMemory":
        return cls(embed_dim, settings.scale)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> MeanState:
        return MeanState(torch.zeros(batch_size, self.dim, device=device), torch.zeros(batch_size, dtype=torch.int64))

    def write(self, state: MeanState, new: Tensor, lengths=None, reset=None, report=None) -> MeanState:
        if reset is not None:  # rows whose text ends begin anew
            state = state.reset(reset)
        lengths = torch.full_like(state.count, new.shape[1]) if lengths is None else lengths
        return MeanState(state.total + zero_pads(new, lengths).float().sum(1), state.count + lengths)

    def read(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: MeanState, attention: Attention) -> Read:
        mean = state.total / state.count.clamp_min(1).to(state.total)[:, None]
        context = self.projection((self.scale * mean).to(query.dtype))  # (B, C), the same for all T queries
        return Read(context=context[:, None].expand_as(query))
