"""Cross-entropy with label smoothing, and what the memories of an encoder add to the loss."""

from typing import Any

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor


@register_criterion("translation_cross_entropy", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class TranslationCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    """fairseq's label-smoothed cross-entropy, and per word the model's ``regulariser``, if it has one."""

    def compute_loss(self, model: Any, net_output: tuple, sample: dict, reduce: bool = True) -> tuple[Tensor, Tensor]:
        """Loss and cross-entropy, summed over the words of the sample."""
        loss, nll_loss = super().compute_loss(model, net_output, sample, reduce)
        if (regulariser := net_output[1].get("regulariser")) is not None:
            loss = loss + sample["ntokens"] * regulariser
        return loss, nll_loss
