"""Cross-entropy and what long-term memories add to the loss."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.utils import get_perplexity
from omegaconf import II
from torch import Tensor
from torch.nn import functional as F

from fairseq_infformer.errors import InputError

# What --best-checkpoint-metric can name; from the fourth on, with a long-term memory only.
LOGGED = (
    *("loss", "nll_loss", "ppl", "kl", "ltm_mu", "ltm_mu_std", "ltm_sigma", "ltm_sigma_std"),
    *("reconstruction", "accuracy"),
)


@dataclass
class LtmCrossEntropyConfig(FairseqDataclass):
    ltm_kl_weight: float = field(
        default=1e-6,
        metadata={"help": "weight of the KL term, a mean over layers, heads and scored queries; 1e-6 is the paper's"},
    )
    ltm_kl_sigma: float = field(default=0.05, metadata={"help": "σ₀, the width that the KL term pulls σ towards"})
    distributed_world_size: int = II("distributed_training.distributed_world_size")
    ddp_backend: str = II("distributed_training.ddp_backend")


@register_criterion("ltm_cross_entropy", dataclass=LtmCrossEntropyConfig)
class LtmCrossEntropy(FairseqCriterion):
    """``cross-entropy + weight · mean KL(N(μ, σ²) ‖ N(μ, σ₀²))``, for plain and adaptive softmax.

    A compressive memory adds its error of reconstruction, a mean over layers and scored queries, from which nothing but
    the compression learns.

    Logged: ``loss`` (both terms), ``nll_loss`` and ``ppl`` (cross-entropy alone), ``kl``, and mean and standard
    deviation over layers, heads and scored queries of μ and σ of the long-term attention (``ltm_mu``,
    ``ltm_mu_std``, ``ltm_sigma``, ``ltm_sigma_std``); ``reconstruction``;
    under ``--score answers`` ``accuracy``, the percentage of targets that are the most probable word. ``loss`` and
    ``nll_loss`` are in bits a token, ``kl`` in nats.
    """

    def __init__(self, task: Any, ltm_kl_weight: float, ltm_kl_sigma: float, answers: bool = False) -> None:
        super().__init__(task)
        self.kl_weight, self.kl_sigma = ltm_kl_weight, ltm_kl_sigma
        self.answers = answers

    @classmethod
    def build_criterion(cls, cfg: LtmCrossEntropyConfig, task: Any) -> "LtmCrossEntropy":
        if not 0 <= cfg.ltm_kl_weight < math.inf:
            raise InputError(f"--ltm-kl-weight must be 0 or more, got {cfg.ltm_kl_weight}")
        if not 0 < cfg.ltm_kl_sigma < math.inf:
            raise InputError(f"--ltm-kl-sigma must be positive, got {cfg.ltm_kl_sigma}")
        answers = str(getattr(task.cfg, "score", "all")) == "answers"
        return cls(task, cfg.ltm_kl_weight, cfg.ltm_kl_sigma, answers=answers)

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
        """What the model says of the sample; where answers alone are scored, of their n places, (n, V) or (n, C)."""
        scored = sample["target"].ne(self.padding_idx) if self.answers else None
        return model(**sample["net_input"], scored=scored)

    def loss(self, model: Any, net_output: tuple, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """What ``forward`` returns, for an ``output``, but for the count of right answers."""
        target = sample["target"]
        ntokens = sample["ntokens"]
        scored = target.ne(self.padding_idx)
        wanted = target[scored] if self.answers else target.flatten()
        nll = self._cross_entropy(model, net_output[0].flatten(0, -2), wanted)
        log = {"nll_loss": nll.detach(), "ntokens": ntokens, "nsentences": target.shape[0], "sample_size": ntokens}
        loss = nll
        densities = [look for look in net_output[1]["looks"] if hasattr(look, "variance")]
        if densities:
            kl = self._divergence(densities, scored, log)
            loss = loss + self.kl_weight * kl * ntokens
        errors = [look.error for look in net_output[1]["looks"] if hasattr(look, "error")]
        if errors:
            error = (torch.stack(errors).mean(0) * scored).sum()
            log["reconstruction"] = error.detach()
            loss = loss + error
        log["loss"] = loss.detach()
        return loss, ntokens, log

    @torch.no_grad()
    def predict(self, model: Any, net_output: tuple) -> Tensor:
        """The most probable words (n,) at the places of an ``output`` of answers."""
        places = net_output[0]
        if model.decoder.adaptive_softmax is not None and len(places):
            places = model.decoder.adaptive_softmax.get_log_prob(places[None], None)[0]
        return places.argmax(-1)

    def _cross_entropy(self, model: Any, places: Tensor, target: Tensor) -> Tensor:
        adaptive = getattr(model.decoder, "adaptive_softmax", None)
        if adaptive is None:
            return F.cross_entropy(places.float(), target, ignore_index=self.padding_idx, reduction="sum")
        if not len(target):  # fairseq's tied head takes no empty batch, so it gets a place of padding
            places, target = F.pad(places, (0, 0, 0, 1)), F.pad(target, (0, 1), value=self.padding_idx)
        bands, targets = adaptive(places, target)
        loss = places.new_zeros((), dtype=torch.float32)
        for number, (logits, wanted) in enumerate(zip(bands, targets)):
            if wanted is not None:
                loss = loss + F.cross_entropy(logits.float(), wanted, ignore_index=self.padding_idx, reduction="sum")
            else:  # DDP waits for the gradients of this band, which are zero
                loss = loss + adaptive.tail[number - 1](places[:0]).sum()
        return loss

    def _divergence(self, densities: list[Any], scored: Tensor, log: dict[str, Any]) -> Tensor:
        """Mean KL over layers, heads and scored queries; notes the sums that are logged."""
        scored = scored[:, None]  # (B, 1, T), for (B, H, T)
        count = len(densities) * densities[0].mean.shape[1] * scored.sum()
        total, sums = 0.0, torch.zeros(4, device=scored.device, dtype=torch.float32)
        for density in densities:
            variance = density.variance
            ratio = variance / self.kl_sigma**2
            # The clamp keeps the paper's form, which has no floor on σ, from log(0).
            kl = 0.5 * (ratio - ratio.clamp_min(1e-12).log() - 1)
            total = total + (kl * scored).sum()
            with torch.no_grad():
                mean, sigma = density.mean * scored, variance.sqrt() * scored
                sums += torch.stack([mean.sum(), mean.square().sum(), sigma.sum(), sigma.square().sum()])
        log.update(zip(("mu", "mu_square", "sigma", "sigma_square"), sums), kl_sum=total.detach(), ltm_count=count)
        return total / count.clamp_min(1)

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
        if any("reconstruction" in log for log in logging_outputs):
            metrics.log_scalar("reconstruction", total("reconstruction") / ntokens, ntokens, round=3)
        count = total("ltm_count")
        if count:
            metrics.log_scalar("kl", total("kl_sum") / count, count, round=3)
            for name in ("mu", "sigma"):
                mean = total(name) / count
                spread = math.sqrt(max(0.0, total(f"{name}_square") / count - mean**2))
                metrics.log_scalar(f"ltm_{name}", mean, count, round=3)
                metrics.log_scalar(f"ltm_{name}_std", spread, count, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
