"""The projections of an attention of ``transformers``, by their names: all that differs between architectures."""

from abc import ABC, abstractmethod
from typing import ClassVar, Optional

import torch
from torch import Tensor, nn


class Projections(ABC):
    """What attention over the past, and a long-term memory, need of an attention with H heads of width d.

    Keys and values may have fewer heads, H' of them, each for H / H' heads of queries. Nothing is turned by positions:
    tokens are turned by whoever attends to them, and a long-term memory has no positions of tokens.

    It is also the ``attention`` that ``LongTermMemory.read`` gets.
    """

    names: ClassVar[tuple[str, ...]]

    def __init__(self, attention: nn.Module) -> None:
        self.attention = attention
        self.head_dim, self.scaling = attention.head_dim, attention.scaling

    @abstractmethod
    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H · d), keys and values (B, T, H' · d) of hidden states (B, T, C)."""

    @abstractmethod
    def keys_values(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, T, H' · d) alone."""

    @abstractmethod
    def output(self, context: Tensor) -> Tensor:
        """(B, T, C) for the context (B, T, H · d) of all heads."""

    @abstractmethod
    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of keys and values (H · d, C), repeated where heads share them, and of the output (C, H · d).

        Biases are left out: that of the keys changes the score of no position against another, and that of the values
        is in ordinary attention's context already.
        """

    @property
    @abstractmethod
    def num_heads(self) -> int:
        """H."""

    @property
    @abstractmethod
    def dropout(self) -> float:
        """The probability on the weights of attention."""

    @property
    def kv_weight(self) -> Tensor:
        """(2 · H · d, C): ``weights`` of keys and values, one above the other."""
        key, value, _ = self.weights()
        return torch.cat([key, value])

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, H · d) as (B, H, T, d), for any number of heads."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class SeparateProjections(Projections):
    """A projection each: Llama, SmolLM2, Mistral, Qwen2; and Qwen3, which norms each head of queries and keys."""

    names = ("q_proj", "k_proj", "v_proj", "o_proj")

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._normed("q_norm", self.attention.q_proj(hidden)), *self.keys_values(hidden)

    def keys_values(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self._normed("k_norm", self.attention.k_proj(hidden)), self.attention.v_proj(hidden)

    def output(self, context: Tensor) -> Tensor:
        return self.attention.o_proj(context)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        key, value, output = (getattr(self.attention, name).weight for name in self.names[1:])
        key, value = (weight.unflatten(0, (-1, self.head_dim)) for weight in (key, value))  # (H', d, C)
        if (norm := self._norm("k_norm")) is not None:
            # A memory does not norm its keys, so its projection gives them the size that they would have after the
            # norm, if hidden states were independent numbers of size one.
            key = norm.weight[:, None] * key / key.square().sum(2).mean(1)[:, None, None].sqrt()
        groups = self.num_heads // len(key)
        return *(weight.repeat_interleave(groups, dim=0).flatten(0, 1) for weight in (key, value)), output

    @property
    def num_heads(self) -> int:
        return self.attention.q_proj.out_features // self.head_dim

    @property
    def dropout(self) -> float:
        return self.attention.attention_dropout

    def _normed(self, name: str, x: Tensor) -> Tensor:
        norm = self._norm(name)
        return x if norm is None else norm(x.unflatten(-1, (-1, self.head_dim))).flatten(-2)

    def _norm(self, name: str) -> Optional[nn.Module]:
        return getattr(self.attention, name, None)


class JointProjections(Projections):
    """One projection for queries, keys and values: GPT-2, whose weights are (in, out)."""

    names = ("c_attn", "c_proj")

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attention.c_attn(hidden).chunk(3, dim=-1)

    def keys_values(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.project(hidden)[1:]

    def output(self, context: Tensor) -> Tensor:
        return self.attention.resid_dropout(self.attention.c_proj(context))

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        _, key, value = self.attention.c_attn.weight.T.chunk(3)
        return key, value, self.attention.c_proj.weight.T

    @property
    def num_heads(self) -> int:
        return self.attention.num_heads

    @property
    def dropout(self) -> float:
        return self.attention.attn_dropout.p


FAMILIES: tuple[type[Projections], ...] = (SeparateProjections, JointProjections)


def projections_of(module: nn.Module) -> Optional[Projections]:
    """The projections of a module that is an attention; None for any other."""
    for family in FAMILIES:
        if all(hasattr(module, name) for name in (*family.names, "head_dim", "scaling")):
            return family(module)
    return None


def rotated(x: Tensor, rotation: Optional[tuple[Tensor, Tensor]]) -> Tensor:
    """``x`` (B, T, H · d) turned by positions as in RoPE; ``rotation``: cosine and sine (B, T, d), None: not at all."""
    if rotation is None:
        return x
    cosine, sine = (each[:, :, None] for each in rotation)
    heads = x.unflatten(-1, (-1, cosine.shape[-1]))
    first, second = heads.chunk(2, dim=-1)
    return (heads * cosine + torch.cat([-second, first], dim=-1) * sine).flatten(2)
