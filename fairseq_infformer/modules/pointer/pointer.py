"""A pointer from the output layer to words that the text had before, each with the hidden state that it followed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.memories.ablation import swapped
from fairseq_infformer.modules.settings import SettingError
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import detached, reordered

RECENT = 0.5  # of the pairs: those of the last words
CERTAIN = 30.0  # nats by which a pointer outweighs the output layer at most; more changes no probability in float32


class Pairs(NamedTuple):
    """Hidden states, and the words that followed them, oldest first. A row with fewer than W has them at the right."""

    keys: ShortTermMemory  # (B, W, C)
    tokens: Tensor  # (B, W) int64
    scores: Tensor  # (B, W) float32 or float64: how much each is worth keeping

    def append(self, keys: Tensor, tokens: Tensor, scores: Tensor, lengths: Tensor) -> "Pairs":
        """The pairs W + T wide that end with the first ``lengths`` (B,) of keys (B, T, C), tokens and scores (B, T)."""
        columns = [
            ShortTermMemory(old[:, :, None], self.keys.lengths).append(new[:, :, None], lengths).hidden[:, :, 0]
            for old, new in ((self.tokens, tokens), (self.scores, scores))
        ]
        return Pairs(self.keys.append(keys, lengths), *columns)

    def gather(self, index: Tensor, lengths: Tensor) -> "Pairs":
        """Those of the numbers ``index`` (B, W'), of which each row holds ``lengths`` (B,)."""
        keys = self.keys.hidden.gather(1, index[:, :, None].expand(-1, -1, self.keys.hidden.shape[2]))
        return Pairs(ShortTermMemory(keys, lengths), self.tokens.gather(1, index), self.scores.gather(1, index))


class PointerState(NamedTuple):
    """What a pointer knows of B streams."""

    last: ShortTermMemory  # (B, 1, C): the hidden state of the last word, whose pair the next word completes
    pairs: Pairs
    fresh: Tensor  # (B,) int64, on the CPU: words since pairs were last dropped

    detach, reorder = detached, reordered

    def reset(self, rows: Tensor) -> "PointerState":
        """The state with the rows of the CPU mask ``rows`` (B,) before any text."""
        pairs = self.pairs._replace(keys=self.pairs.keys.reset(rows))
        return PointerState(self.last.reset(rows), pairs, self.fresh.masked_fill(rows, 0))


class Pointer(nn.Module):
    """Adds to the probability of a word what pointing at it in the text before gives.

    The hidden state h that predicts the next word is compared with the hidden states k that predicted words before,
    by ``s = (W h)ᵀ k / √C + b √C``, and the words that followed become likelier: ``p(w) ∝ exp(z_w) + Σ exp(s)``, the
    sum over the pairs with w (after Grave et al. 2017, and Merity et al. 2016, whose softmax is over both as well). How
    much the pointer counts depends on how well something before fits.

    Up to S pairs outlive their segment: the last S/2, and those before them whose word surprised the output layer
    most, by log₂(−log p(w)) less 1 per half-life of age. What surprises is a name, say, and worth pointing at when it
    returns; what the output layer predicts by itself is not.

    Args:
        embed_dim: C. length: S, 2 or more. half_life: in words.
        ablation: for evaluation. ``zero``: there is nothing to point at before the segment; ``swap``: there are the
            pairs of another row.
    """

    def __init__(self, embed_dim: int, length: int, half_life: int, ablation: str = "none") -> None:
        super().__init__()
        if length < 2:
            raise SettingError("length", f"must be 2 or more, or 0 for none, got {length}")
        if half_life <= 0:
            raise SettingError("half_life", f"must be positive, got {half_life}")
        self.embed_dim, self.length, self.half_life, self.ablation = embed_dim, length, half_life, ablation
        self.query = nn.Linear(embed_dim, embed_dim, bias=False)
        nn.init.eye_(self.query.weight)
        # Equal hidden states of a layer norm begin with s = √C / 2.
        self.bias = nn.Parameter(torch.tensor(-0.5))

    def initial_state(self, like: Tensor) -> PointerState:
        """The state before any text, for hidden states like ``like`` (B, …, C)."""
        rows = len(like)
        last, keys = (ShortTermMemory.empty(rows, width, self.embed_dim, like) for width in (1, 0))
        none = like.new_zeros(rows, 0)
        return PointerState(last, Pairs(keys, none.long(), _wide(none)), torch.zeros(rows, dtype=torch.int64))

    def empty_stream(self, batch_size: int) -> PointerState:
        """The state of each row before any text."""
        return self.initial_state(self.query.weight.new_zeros(batch_size, 1, self.embed_dim))

    def between_segments(self, state: PointerState) -> PointerState:
        """The state after the segments of all rows have ended."""
        return self.drop(state, torch.ones_like(state.fresh, dtype=torch.bool))

    def forward(
        self,
        hidden: Tensor,
        tokens: Tensor,
        lengths: Tensor,
        state: PointerState,
        output: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, PointerState]:
        """Logits (B, T, V) of the words that follow, and the state after the words of a segment or of a part of it.

        Args:
            hidden: (B, T, C). tokens: (B, T), the words that gave it. lengths: (B,), on the CPU: how many of the T are
                text, from the left.
            output: the output layer, which gives logits (…, V) for hidden states (…, C).

        Raises:
            SettingError: if the memories of a single row are to be swapped.
        """
        logits = output(hidden)
        last, keys, paired = state.last.append(hidden, lengths).split(1)
        with torch.no_grad():
            first = _surprise(output(state.last.hidden), tokens[:, :1])
            surprise = torch.cat([first, _surprise(logits[:, :-1], tokens[:, 1:])], dim=1)
        # The first word of a text follows no hidden state, and is in no pair.
        words, scores = (_last(x, lengths, paired) for x in (tokens, surprise.log2()))

        new = (keys, words, scores, paired)
        pairs, before = state.pairs.append(*new), self._seen(state)
        seen = pairs if before is state else before.pairs.append(*new)
        logits = _Pointed.apply(logits, self._weights(hidden, seen.keys, lengths), seen.tokens)
        return logits, PointerState(last, pairs, state.fresh + lengths)

    def _seen(self, state: PointerState) -> PointerState:
        """The state whose pairs are pointed at."""
        if self.ablation == "zero":
            return state.reset(torch.ones_like(state.fresh, dtype=torch.bool))
        if self.ablation == "swap":
            return swapped(state, state.pairs.keys.lengths == 0)
        return state

    def _weights(self, hidden: Tensor, keys: ShortTermMemory, lengths: Tensor) -> Tensor:
        """s (B, T, W), −∞ where a hidden state sees no pair."""
        root = self.embed_dim**0.5
        scores = _wide(self.query(hidden) @ keys.hidden.to(hidden.dtype).mT) / root + root * _wide(self.bias)
        width, queries = scores.shape[2], scores.shape[1]
        own = width - lengths[:, None] + torch.arange(queries)  # of the pair that each word completes, if there is one
        visible = (torch.arange(width) <= own[:, :, None]) & keys.held()[:, None]
        return scores.masked_fill(~visible.to(scores.device), -torch.inf)

    def drop(self, state: PointerState, rows: Tensor) -> PointerState:
        """The state after a segment of the rows of the CPU mask ``rows`` (B,) has ended: they keep S pairs at most."""
        age = state.fresh.masked_fill(~rows, 0)
        pairs = state.pairs._replace(scores=state.pairs.scores - (age / self.half_life).to(state.pairs.scores)[:, None])
        width = pairs.tokens.shape[1]
        if width > self.length:
            lengths = torch.where(rows, pairs.keys.lengths.clamp_max(self.length), pairs.keys.lengths)
            kept = self._kept(pairs, rows)[:, width - max(self.length, int(lengths.max())) :]
            pairs = pairs.gather(kept, lengths)
        return PointerState(state.last, pairs, state.fresh - age)

    @torch.no_grad()
    def _kept(self, pairs: Pairs, rows: Tensor) -> Tensor:
        """(B, W): numbers of the pairs, from those that are dropped to those that the rows (B,), or others, keep."""
        rank, stay = pairs.scores.clone(), ~rows.to(pairs.scores.device)[:, None]
        width = rank.shape[1]
        rank[:, width - int(RECENT * self.length) :] = torch.inf
        rank = rank.masked_fill(~pairs.keys.held().to(rank.device), -torch.inf)
        # Of those with equal scores, the later ones are kept.
        order = width - 1 - rank.flip(1).argsort(dim=1, descending=True, stable=True)
        kept = torch.zeros_like(rank, dtype=torch.bool).scatter(1, order[:, : self.length], True) | stay
        return kept.long().argsort(dim=1, stable=True)


def _wide(x: Tensor) -> Tensor:
    """In float32, or float64 if it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _surprise(logits: Tensor, tokens: Tensor) -> Tensor:
    """−log p (B, T) of tokens (B, T) by logits (B, T, V), not quite 0."""
    logits = _wide(logits)
    return (logits.logsumexp(-1) - logits.gather(-1, tokens[:, :, None])[:, :, 0]).clamp_min(1e-6)


def _last(x: Tensor, lengths: Tensor, count: Tensor) -> Tensor:
    """Of the first ``lengths`` (B,) of each row of ``x`` (B, T), the last ``count`` (B,), from the left end on."""
    empty = ShortTermMemory(x[:, :0, None], torch.zeros_like(lengths))
    return empty.append(x[:, :, None], lengths)._replace(lengths=count).from_left()[:, :, 0]


class _Pointed(torch.autograd.Function):
    """``log(exp(z_w) + Σ exp(s))`` (B, T, V) for logits z, which change, and s (B, T, W) of pairs with tokens (B, W).

    All but W words keep their logits, so that nothing but the sum over equal tokens is computed, which autograd's own
    operations would not do without several tensors of the size of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scores: Tensor, tokens: Tensor) -> Tensor:
        # Each word's sum is at its first pair.
        first = (tokens[:, :, None] == tokens[:, None]).int().argmax(2)[:, None].expand_as(scores)
        index = tokens[:, None].expand_as(scores)
        ratio = (scores - logits.gather(2, index)).clamp_max(CERTAIN).exp()
        sums = torch.zeros_like(ratio).scatter_add(2, first, ratio)
        ctx.save_for_backward(index, first, ratio, sums)
        ctx.mark_dirty(logits)
        return logits.scatter_add_(2, index, sums.log1p().to(logits.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        index, first, ratio, sums = ctx.saved_tensors
        given = grad.gather(2, index).to(ratio.dtype)
        of_scores = given * ratio / (1 + sums.gather(2, first))
        # Twins of a word's first pair have no sum, and take nothing.
        of_logits = grad.scatter_add(2, index, (-given * sums / (1 + sums)).to(grad.dtype))
        return of_logits, of_scores, None
