"""Cross-entropy, and the terms that long-term memories add to the loss."""

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

# Logged with every memory; --best-checkpoint-metric can name these and the figures of a memory's reads.
LOGGED = ("loss", "nll_loss", "ppl", "accuracy")
# For each figure of the reads, what ranks and steps add up: its sum, the sum of its squares, and its count.
SUM, SQUARES, COUNT = "sum of ", "squares of ", "count of "


@dataclass
class LtmCrossEntropyConfig(FairseqDataclass):
    distributed_world_size: int = II("distributed_training.distributed_world_size")
    ddp_backend: str = II("distributed_training.ddp_backend")
    # Now settings of the model; earlier checkpoints have them among those of the criterion.
    ltm_kl_weight: float = II("model.ltm_kl_weight")
    ltm_kl_sigma: float = II("model.ltm_kl_sigma")


@register_criterion("ltm_cross_entropy", dataclass=LtmCrossEntropyConfig)
class LtmCrossEntropy(FairseqCriterion):
    """Cross-entropy, for plain and adaptive softmax, and the terms that reads of long-term memories add to it.

    A read has figures (``LongTermMemory.figures``). Each is averaged over layers, heads and scored queries, logged
    (some with their standard deviation), and added to the loss with its weight. Also logged are ``loss`` (the sum of
    all), ``nll_loss`` and ``ppl`` (cross-entropy only), and under ``--score answers`` ``accuracy``, the percentage of
    targets that are the most probable word. ``loss`` and ``nll_loss`` are in bits per token.
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
            the loss, the number of targets to divide it by, and the sums to log.
        """
        net_output = self.output(model, sample)
        loss, ntokens, log = self.loss(model, net_output, sample)
        if self.answers:
            counted = net_output[1].get("correct")
            log["correct"] = self.correct(model, net_output, sample) if counted is None else counted
        return loss, ntokens, log

    def output(self, model: Any, sample: dict[str, Any]) -> tuple:
        """The model's output for the sample; under ``--score answers`` only for its n targets, (n, V) or (n, C).

        For a sample that is replayed, it is the cross-entropy, segment by segment, since the logits of several would
        take most of the memory; the number of answers that are correct is then beside it.
        """
        inputs, target = sample["net_input"], sample["target"]
        scored = target.ne(self.padding_idx) if self.answers else None
        if not inputs.get("replayed", False):
            return model(**inputs, scored=scored)
        targets, correct = target.chunk(inputs["lengths"].shape[1], dim=1), []

        def objective(output: Tensor, number: int) -> Tensor:
            wanted = targets[number].flatten()
            if self.answers:
                wanted = wanted[wanted.ne(self.padding_idx)]
                correct.append((self._scores(model, output).argmax(-1) == wanted).sum())
            return self._cross_entropy(model, output.flatten(0, -2), wanted)

        total, extra = model(**inputs, scored=scored, objective=objective)
        return total, extra | ({"correct": torch.stack(correct).sum()} if self.answers else {})

    def loss(self, model: Any, net_output: tuple, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """What ``forward`` returns, for an ``output``, without the number of correct answers."""
        target = sample["target"]
        ntokens = sample["ntokens"]
        scored = target.ne(self.padding_idx)
        if sample["net_input"].get("replayed", False):
            nll = net_output[0]
        else:
            targets = target[scored] if self.answers else target.flatten()
            nll = self._cross_entropy(model, net_output[0].flatten(0, -2), targets)
        log = {"nll_loss": nll.detach(), "ntokens": ntokens, "nsentences": target.shape[0], "sample_size": ntokens}
        loss = nll + self._reported(net_output[1]["figures"], scored, log)
        log["loss"] = loss.detach()
        return loss, ntokens, log

    def correct(self, model: Any, net_output: tuple, sample: dict[str, Any]) -> Tensor:
        """How many targets are the most probable word, for an ``output`` of answers."""
        targets, scores = self._scored(model, net_output, sample)
        return (scores.argmax(-1) == targets).sum()

    def predictions(self, model: Any, net_output: tuple, sample: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the n targets, in the order of the rows: the words, the most probable words and the losses in nats."""
        targets, scores = self._scored(model, net_output, sample)
        exact = torch.promote_types(scores.dtype, torch.float32)
        return targets, scores.argmax(-1), F.cross_entropy(scores.to(exact), targets, reduction="none")

    def _scored(self, model: Any, net_output: tuple, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The targets (n,) of a sample, and the logits or log-probabilities (n, V) of all words in their place."""
        scored = sample["target"].ne(self.padding_idx)
        output = net_output[0] if self.answers else net_output[0][scored]
        return sample["target"][scored], self._scores(model, output)

    @torch.no_grad()
    def _scores(self, model: Any, output: Tensor) -> Tensor:
        """Logits or log-probabilities (n, V) of all words, from the logits (n, V) or the features (n, C)."""
        if model.decoder.adaptive_softmax is not None and len(output):
            return model.decoder.adaptive_softmax.get_log_prob(output[None], None)[0]
        return output.detach()

    def _cross_entropy(self, model: Any, output: Tensor, target: Tensor) -> Tensor:
        adaptive = model.decoder.adaptive_softmax
        if adaptive is None:
            return self._summed(output, target)
        if not len(target):  # fairseq's tied head fails on an empty batch, so it gets one padding target
            output, target = F.pad(output, (0, 0, 0, 1)), F.pad(target, (0, 1), value=self.padding_idx)
        bands, targets = adaptive(output, target)
        loss = torch.zeros((), device=output.device)
        for number, (logits, in_band) in enumerate(zip(bands, targets)):
            if in_band is not None:
                loss = loss + self._summed(logits, in_band)
            else:  # DDP waits for the gradients of this band, which are zero
                loss = loss + adaptive.tail[number - 1](output[:0]).sum()
        return loss

    def _summed(self, logits: Tensor, target: Tensor) -> Tensor:
        exact = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(logits.to(exact), target, ignore_index=self.padding_idx, reduction="sum")

    def _reported(self, reads: list[dict[str, Any]], scored: Tensor, log: dict[str, Any]) -> Tensor:
        """The terms that the reads of all layers add to the loss; also adds the sums to log to ``log``."""
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
        """Aggregate the logs of ``forward`` over ranks and steps."""

        def total(key: str) -> float:
            return float(sum(log.get(key, 0) for log in logging_outputs))

        ntokens = total("ntokens")
        if not ntokens:  # fairseq takes a loss that is not logged for -1
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
