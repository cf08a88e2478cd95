"""Cross-entropy and what long-term memories add to the loss."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.utils import get_perplexity
from omegaconf import II
from torch import Tensor
from torch.nn import functional as F

from fairseq_infformer.modules.replay import replay, unroll

# What is logged whatever the memory; --best-checkpoint-metric can name these and what the reads of a memory log.
LOGGED = ("loss", "nll_loss", "ppl", "accuracy")
# In what ranks and steps add up, for each figure of the reads: its sum, that of its squares, and how many it has.
SUM, SQUARES, COUNT = "sum of ", "squares of ", "count of "


@dataclass
class LtmCrossEntropyConfig(FairseqDataclass):
    distributed_world_size: int = II("distributed_training.distributed_world_size")
    ddp_backend: str = II("distributed_training.ddp_backend")
    # Settings of the model since; checkpoints of before have them here.
    ltm_kl_weight: float = II("model.ltm_kl_weight")
    ltm_kl_sigma: float = II("model.ltm_kl_sigma")


@register_criterion("ltm_cross_entropy", dataclass=LtmCrossEntropyConfig)
class LtmCrossEntropy(FairseqCriterion):
    """Cross-entropy, for plain and adaptive softmax, and what the reads of long-term memories add to it.

    A read has figures (``LongTermMemory.figures``). Each is averaged over layers, heads and scored queries and logged,
    some with their standard deviation; its mean, per scored query, is added to the loss with its weight. Logged beside
    them: ``loss`` (all of it), ``nll_loss`` and ``ppl`` (cross-entropy alone); under ``--score answers`` ``accuracy``,
    the percentage of targets that are the most probable word. ``loss`` and ``nll_loss`` are in bits per token.
    """

    def __init__(self, task: Any, answers: bool = False) -> None:
        super().__init__(task)
        self.answers = answers

    @classmethod
    def build_criterion(cls, cfg: LtmCrossEntropyConfig, task: Any) -> "LtmCrossEntropy":
        return cls(task, answers=str(getattr(task.cfg, "score", "all")) == "answers")

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss of one segment of each stream, summed over its targets.

        Returns:
            the loss, the number of targets to divide it by, and what to log, all of it sums.
        """
        net_output = self.output(model, sample)
        loss, ntokens, log = self.loss(model, net_output, sample)
        if self.answers:
            target = sample["target"]
            log["correct"] = (self.predict(model, net_output) == target[target.ne(self.padding_idx)]).sum()
        return loss, ntokens, log

    def output(self, model: Any, sample: dict[str, Any]) -> tuple:
        """What the model says of the sample; where answers alone are scored, of their n places, (n, V) or (n, C).

        Of a sample that is replayed it is the features, since the logits of several segments take most of the memory.
        """
        scored = sample["target"].ne(self.padding_idx) if self.answers else None
        return model(**sample["net_input"], scored=scored, features_only=self._by_segments(sample))

    def _by_segments(self, sample: dict[str, Any]) -> bool:
        return sample["net_input"].get("replayed", False) and not self.answers

    def loss(self, model: Any, net_output: tuple, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """What ``forward`` returns, for an ``output``, but for the count of right answers."""
        target = sample["target"]
        ntokens = sample["ntokens"]
        scored = target.ne(self.padding_idx)
        wanted = target[scored] if self.answers else target.flatten()
        if self._by_segments(sample):
            nll = self._replayed_cross_entropy(model, net_output[0], target, sample["net_input"]["lengths"].shape[1])
        else:
            nll = self._cross_entropy(model, net_output[0].flatten(0, -2), wanted)
        log = {"nll_loss": nll.detach(), "ntokens": ntokens, "nsentences": target.shape[0], "sample_size": ntokens}
        loss = nll + self._reported(net_output[1]["figures"], scored, log)
        log["loss"] = loss.detach()
        return loss, ntokens, log

    @torch.no_grad()
    def predict(self, model: Any, net_output: tuple) -> Tensor:
        """The most probable words (n,) at the places of an ``output`` of answers."""
        places = net_output[0]
        if model.decoder.adaptive_softmax is not None and len(places):
            places = model.decoder.adaptive_softmax.get_log_prob(places[None], None)[0]
        return places.argmax(-1)

    def _replayed_cross_entropy(self, model: Any, features: Tensor, target: Tensor, num_segments: int) -> Tensor:
        """Cross-entropy of features (B, K · T, C), which keeps the logits of one segment at a time."""

        def loss(state: None, segment: tuple[Tensor, Tensor]) -> tuple[None, Tensor]:
            part, wanted = segment
            return state, self._cross_entropy(model, model.decoder.output_layer(part).flatten(0, -2), wanted.flatten())

        segments = zip(features.chunk(num_segments, dim=1), target.chunk(num_segments, dim=1))
        _, losses = (replay if torch.is_grad_enabled() else unroll)(loss, None, segments)
        return torch.stack(losses).sum()

    def _cross_entropy(self, model: Any, places: Tensor, target: Tensor) -> Tensor:
        adaptive = model.decoder.adaptive_softmax
        if adaptive is None:
            return self._summed(places, target)
        if not len(target):  # fairseq's tied head takes no empty batch, so it gets a place of padding
            places, target = F.pad(places, (0, 0, 0, 1)), F.pad(target, (0, 1), value=self.padding_idx)
        bands, targets = adaptive(places, target)
        loss = torch.zeros((), device=places.device)
        for number, (logits, wanted) in enumerate(zip(bands, targets)):
            if wanted is not None:
                loss = loss + self._summed(logits, wanted)
            else:  # DDP waits for the gradients of this band, which are zero
                loss = loss + adaptive.tail[number - 1](places[:0]).sum()
        return loss

    def _summed(self, logits: Tensor, target: Tensor) -> Tensor:
        exact = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(logits.to(exact), target, ignore_index=self.padding_idx, reduction="sum")

    def _reported(self, reads: list[dict[str, Any]], scored: Tensor, log: dict[str, Any]) -> Tensor:
        """What the reads of all layers add to the loss; notes the sums that are logged."""
        layers: dict[str, list[Any]] = {}
        for read in reads:
            for name, figure in read.items():
                layers.setdefault(name, []).append(figure)
        added = torch.zeros((), device=scored.device)
        for name, figures in layers.items():
            values = torch.stack([figure.value for figure in figures])
            heads = values[0].numel() // scored.numel()
            values = values.view(len(figures), len(scored), heads, -1) * scored[:, None]
            total = values.sum()
            if figures[0].weight:
                added = added + figures[0].weight / (len(figures) * heads) * total
            log[SUM + name], log[COUNT + name] = total.detach(), len(figures) * heads * scored.sum()
            if figures[0].spread:
                log[SQUARES + name] = values.detach().square().sum()
        return added

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate what ``forward`` logged over ranks and steps."""

        def total(key: str) -> float:
            return float(sum(log.get(key, 0) for log in logging_outputs))

        ntokens = total("ntokens")
        if not ntokens:  # Segments without targets count nothing, yet fairseq takes a loss that is not logged for -1.
            metrics.log_scalar("loss", 0.0, weight=0)
            return
        metrics.log_scalar("loss", total("loss") / ntokens / math.log(2), ntokens, round=3)
        metrics.log_scalar("nll_loss", total("nll_loss") / ntokens / math.log(2), ntokens, round=3)
        metrics.log_derived("ppl", lambda meters: get_perplexity(meters["nll_loss"].avg))
        if any("correct" in log for log in logging_outputs):
            metrics.log_scalar("accuracy", 100 * total("correct") / ntokens, ntokens, round=2)
        for name in dict.fromkeys(
            key.removeprefix(SUM) for log in logging_outputs for key in log if key.startswith(SUM)
        ):
            if count := total(COUNT + name):
                mean = total(SUM + name) / count
                metrics.log_scalar(name, mean, count, round=3)
                if any(SQUARES + name in log for log in logging_outputs):
                    variance = total(SQUARES + name) / count - mean**2
                    metrics.log_scalar(f"{name}_std", math.sqrt(max(0.0, variance)), count, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
