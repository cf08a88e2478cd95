"""Adam with a separate learning rate for long-term memories, which are untrained when the other weights are not."""

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
        default=5, metadata={"help": "learning rate of the long-term memories as a multiple of --lr; the paper has 5"}
    )


@register_optimizer("ltm_adam", dataclass=LtmAdamConfig)
class LtmAdam(FairseqAdam):
    """fairseq's Adam, with ``ltm_lr_scale`` times the learning rate for the parameters of the ``param_group`` "ltm".

    fairseq's own optimizer with several rates, ``--optimizer composite``, can only be configured by Hydra, and gives
    each group a separate schedule. This one applies any schedule to both groups; it logs the ``lr`` of the other group.
    """

    def __init__(self, cfg: LtmAdamConfig, params: Iterable[nn.Parameter]) -> None:
        if not 0 <= cfg.ltm_lr_scale < math.inf:
            raise InputError(f"--ltm-lr-scale must be 0 or more, got {cfg.ltm_lr_scale}")
        groups: tuple[list, list] = ([], [])
        for parameter in params:
            groups[getattr(parameter, "param_group", None) == "ltm"].append(parameter)
        if not all(groups):
            raise InputError(
                "--optimizer ltm_adam needs weights of a long-term memory and others beside; give --optimizer adam for "
                "a model that trains only one of them, and add --fp16-no-flatten-grads to --fp16"
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
