"""A long-term memory of your own: the mean of all vectors that have left the short-term memory, in 60 lines.

fairseq-train DATA --user-dir examples/your_own_memory --long-term-memory mean --mean-scale 2 …
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

import fairseq_infformer.plugin  # noqa: F401  (registers the task and the models)
from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.memories import LongTermMemory, Read, Report, SettingError, register_memory


class MeanState(NamedTuple):
    total: Tensor  # (B, C)
    count: Tensor  # (B,) int64, on the CPU

    def is_empty(self) -> Tensor:
        return self.count == 0

    def detach(self) -> "MeanState":
        return self._replace(total=self.total.detach())

    def reset(self, rows: Tensor) -> "MeanState":
        mask = rows.to(self.total.device)[:, None]
        return MeanState(self.total.masked_fill(mask, 0), self.count.masked_fill(rows.cpu(), 0))

    def reorder(self, order: Tensor) -> "MeanState":
        return MeanState(self.total[order.to(self.total.device)], self.count[order.cpu()])


@dataclass
class MeanSettings:
    scale: float = field(default=1.0, metadata={"help": "what the mean is multiplied with"})


@register_memory("mean", settings=MeanSettings)
class MeanMemory(LongTermMemory):
    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        if scale <= 0:
            raise SettingError("scale", f"must be positive, got {scale}")
        self.scale, self.projection = scale, nn.Linear(dim, dim, bias=False)

    @classmethod
    def build(cls, settings: MeanSettings, embed_dim: int, num_heads: int, layer: int) -> "MeanMemory":
        return cls(embed_dim, settings.scale)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> MeanState:
        total = torch.zeros(batch_size, self.projection.in_features, device=device)
        return MeanState(total, torch.zeros(batch_size, dtype=torch.int64))

    def write(
        self,
        state: MeanState,
        new: Tensor,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
        report: Optional[Report] = None,
    ) -> MeanState:
        lengths = torch.full_like(state.count, new.shape[1]) if lengths is None else lengths
        state = state if reset is None else state.reset(reset)
        pads = torch.arange(new.shape[1]) >= lengths[:, None]
        added = new.float().masked_fill(pads.to(new.device)[:, :, None], 0).sum(1)
        return MeanState(state.total + added, state.count + lengths)

    def read(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: MeanState, attention: Attention) -> Read:
        mean = state.total / state.count.clamp_min(1).to(state.total)[:, None]
        return Read(context=self.projection((self.scale * mean).to(query.dtype))[:, None].expand_as(query))
