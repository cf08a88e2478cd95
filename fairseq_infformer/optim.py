"""Adam for two groups of parameters: long-term memories beside a trained model, an architecture beside weights."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import nn

from .errors import InputError, option


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
        groups = _apart(params, "ltm")
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


@dataclass
class SearchAdamConfig(FairseqAdamConfig):
    architecture_lr: float = field(
        default=3e-4, metadata={"help": "learning rate of the architecture, whatever the schedule of --lr"}
    )
    architecture_weight_decay: float = field(default=1e-3, metadata={"help": "weight decay of the architecture"})


@register_optimizer("search_adam", dataclass=SearchAdamConfig)
class SearchAdam(FairseqAdam):
    """fairseq's Adam for weights and, with a fixed rate, for the parameters of the ``param_group`` "architecture".

    Of the two, an update leaves the one alone whose gradients are all zero or absent: neither its moments nor its decay
    move. So they are trained in turn as by two optimizers, with the checkpoints of one. The schedule and the logged
    ``lr`` are those of the weights.
    """

    def __init__(self, cfg: SearchAdamConfig, params: Iterable[nn.Parameter]) -> None:
        for name in ("architecture_lr", "architecture_weight_decay"):
            if not 0 <= (value := getattr(cfg, name)) < math.inf:
                raise InputError(f"{option(name)} must be 0 or more, got {value}")
        groups = _apart(params, "architecture")
        if not all(groups):
            raise InputError(
                "--optimizer search_adam needs an architecture beside weights; give --optimizer adam, or --arch "
                "dartsformer_search, and add --fp16-no-flatten-grads to --fp16"
            )
        architecture = {"params": groups[1], "weight_decay": cfg.architecture_weight_decay}
        super().__init__(cfg, [{"params": groups[0]}, architecture])
        self.set_lr(self.get_lr())

    def set_lr(self, lr: float) -> None:
        weights, architecture = self.param_groups
        weights["lr"], architecture["lr"] = lr, self.cfg.architecture_lr

    def step(self, *args: Any, **kwargs: Any) -> None:
        weights, architecture = (group["params"] for group in self.param_groups)
        searching = any(bool(parameter.grad.any()) for parameter in architecture if parameter.grad is not None)
        for parameter in weights if searching else architecture:
            parameter.grad = None
        super().step(*args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: Optional[dict[str, Any]] = None) -> None:
        super().load_state_dict(state_dict, optimizer_overrides)
        self.set_lr(self.get_lr())

    @property
    def supports_flat_params(self) -> bool:
        return False


def _apart(params: Iterable[nn.Parameter], group: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of other ``param_group`` than this one, and those of this one."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in params:
        groups[getattr(parameter, "param_group", None) == group].append(parameter)
    return groups
