"""Adam with a learning rate of its own for long-term memories, which start new beside weights that are trained."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import nn

from .errors import InputError


@dataclass
class LtmAdamConfig(FairseqAdamConfig):
    ltm_lr_scale: float = field(
        default=5, metadata={"help": "learning rate of the long-term memories, in multiples of --lr; 5 is the paper's"}
    )


@register_optimizer("ltm_adam", dataclass=LtmAdamConfig)
class LtmAdam(FairseqAdam):
    """fairseq's Adam, in which the parameters of the ``param_group`` "ltm" learn ``ltm_lr_scale`` times as fast.

    fairseq's own way to several rates, ``--optimizer composite``, can be configured by Hydra alone, and it gives each
    group a schedule of its own. Here any schedule holds for both. The ``lr`` that is logged is that of the others.
    """

    def __init__(self, cfg: LtmAdamConfig, params: Iterable[nn.Parameter]) -> None:
        if not 0 <= cfg.ltm_lr_scale < math.inf:
            raise InputError(f"--ltm-lr-scale must be 0 or more, got {cfg.ltm_lr_scale}")
        groups: tuple[list, list] = ([], [])
        for parameter in params:
            groups[getattr(parameter, "param_group", None) == "ltm"].append(parameter)
        if not all(groups):
            raise InputError(
                "--optimizer ltm_adam finds no weights of a long-term memory beside others: give --optimizer adam "
                "where there is none, and --fp16-no-flatten-grads with --fp16"
            )
        super().__init__(cfg, [{"params": group} for group in groups])
        self.set_lr(self.get_lr())

    def set_lr(self, lr: float) -> None:
        others, memories = self.param_groups
        others["lr"], memories["lr"] = lr, self.cfg.ltm_lr_scale * lr

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: Optional[dict[str, Any]] = None) -> None:
        super().load_state_dict(state_dict, optimizer_overrides)
        self.set_lr(self.get_lr())

    @property
    def supports_flat_params(self) -> bool:
        return False
