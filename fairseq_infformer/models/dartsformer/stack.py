"""Embeddings, encoder and decoder of DARTSformer, whatever the operations in its nodes."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder, FairseqIncrementalDecoder
from fairseq.modules import SinusoidalPositionalEmbedding
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.operations import Node, Sizes, Surroundings, build_operation, reordered_cache
from fairseq_infformer.modules.reversible import ReversibleSequence

from .configuration import NetConfig

LAST = "cross-attention"  # the decoder's last node, which is not searched
CACHE = "cache"  # its key in fairseq's incremental state

Choices = Sequence[Sequence[Sequence[str]]]  # the names of the operations of each node, by layer


class Stack(NamedTuple):
    """The layers of an encoder or a decoder."""

    choices: Choices  # of the layers that repeat
    layers: int
    recompute: bool


class FactorisedEmbedding(nn.Module):
    """Embeddings of e channels, |V|×e, with their sinusoidal positions in the C = ``embed_dim`` of the net."""

    def __init__(self, dictionary: Dictionary, cfg: NetConfig, tokens: Optional[nn.Embedding] = None) -> None:
        super().__init__()
        self.tokens = tokens or _tokens(dictionary, cfg.factor_dim)
        self.proj = nn.Linear(cfg.factor_dim, cfg.embed_dim)
        nn.init.normal_(self.proj.weight, std=cfg.factor_dim**-0.5)
        self.positions = SinusoidalPositionalEmbedding(cfg.embed_dim, dictionary.pad())
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, tokens: Tensor, last: bool = False) -> Tensor:
        """(B, T, C) for (B, T) tokens, or (B, 1, C) for the last of them alone."""
        positions = self.positions(tokens, incremental_state={} if last else None)
        tokens = tokens[:, -1:] if last else tokens
        embedded = self.tokens(tokens) * self.tokens.embedding_dim**0.5
        return self.dropout(self.proj(embedded) + positions.to(embedded))


def _tokens(dictionary: Dictionary, width: int) -> nn.Embedding:
    embedding = nn.Embedding(len(dictionary), width, dictionary.pad())
    nn.init.normal_(embedding.weight, std=width**-0.5)
    nn.init.zeros_(embedding.weight[dictionary.pad()])
    return embedding


def _sequence(cfg: NetConfig, stack: Stack, causal: bool) -> ReversibleSequence:
    """Layers of the nodes that ``stack`` lists; if causal, with cross-attention as the last."""
    splits = len(stack.choices[0]) + causal
    width = cfg.embed_dim // splits
    sizes = Sizes(width, cfg.embed_dim, cfg.attention_heads, cfg.ffn_ratio * width, cfg.dropout)

    def node(names: Sequence[str], layer: int, number: int) -> Node:
        operations = [build_operation(name, sizes, causal) for name in names]
        return Node(operations, str(cfg.pooling), (layer, number))

    layers = []
    for number in range(stack.layers):
        layer = number % len(stack.choices)
        names = [*stack.choices[layer], *([[LAST]] if causal else [])]
        layers.append([node(each, layer, k) for k, each in enumerate(names)])
    return ReversibleSequence(layers, recompute=stack.recompute)


def _score(choices: Choices) -> Optional[nn.Parameter]:
    """α, (layers, nodes, operations), near 0; None where every node has one operation."""
    count = len(choices[0][0])
    if count == 1:
        return None
    alpha = nn.Parameter(1e-3 * torch.randn(len(choices), len(choices[0]), count))
    alpha.param_group = "architecture"  # fairseq's attribute, by which an optimizer tells it apart
    return alpha


class _Searched(nn.Module):
    """A sequence with its α and the norm after it."""

    def __init__(self, cfg: NetConfig, stack: Stack, causal: bool) -> None:
        super().__init__()
        self.sequence = _sequence(cfg, stack, causal)
        self.alpha = _score(stack.choices)
        self.norm = nn.LayerNorm(cfg.embed_dim)

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        # A cache is filled as it is used, so there is nothing that a backward pass could run once more.
        with torch.set_grad_enabled(torch.is_grad_enabled() and surroundings.cache is None):
            return self.norm(self.sequence(x, surroundings, self.weights()))

    def weights(self) -> Optional[Tensor]:
        """The softmax of α, in float32 or better."""
        if self.alpha is None:
            return None
        return self.alpha.softmax(-1, dtype=torch.promote_types(self.alpha.dtype, torch.float32))


class DartsformerEncoder(FairseqEncoder):
    """Reads the source, in both directions."""

    def __init__(self, cfg: NetConfig, dictionary: Dictionary, stack: Stack, max_positions: int) -> None:
        super().__init__(dictionary)
        self.embedding = FactorisedEmbedding(dictionary, cfg)
        self.layers = _Searched(cfg, stack, causal=False)
        self.longest = max_positions

    def forward(self, src_tokens: Tensor, src_lengths: Optional[Tensor] = None, **unused: Any) -> dict:
        """The vectors (B, S, C) and the pads (B, S) of a batch, in lists as fairseq's generator expects them."""
        pads = src_tokens.eq(self.dictionary.pad())
        pads = pads if bool(pads.any()) else None
        x = self.layers(self.embedding(src_tokens), Surroundings(pads=pads))
        return {"encoder_out": [x], "encoder_padding_mask": [] if pads is None else [pads]}

    def reorder_encoder_out(self, encoder_out: dict, new_order: Tensor) -> dict:
        return {name: [tensor.index_select(0, new_order) for tensor in kept] for name, kept in encoder_out.items()}

    def max_positions(self) -> int:
        return self.longest


class DartsformerDecoder(FairseqIncrementalDecoder):
    """Writes the target, a word at a time."""

    def __init__(
        self,
        cfg: NetConfig,
        dictionary: Dictionary,
        stack: Stack,
        max_positions: int,
        tokens: Optional[nn.Embedding] = None,
    ) -> None:
        super().__init__(dictionary)
        self.embedding = FactorisedEmbedding(dictionary, cfg, tokens)
        self.layers = _Searched(cfg, stack, causal=True)
        self.out_proj = nn.Linear(cfg.embed_dim, cfg.factor_dim, bias=False)
        self.longest = max_positions

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[dict] = None,
        incremental_state: Optional[dict] = None,
        features_only: bool = False,
        **unused: Any,
    ) -> tuple[Tensor, dict]:
        """Logits (B, T, |V|), or with ``incremental_state`` (B, 1, |V|) of the last token, without gradients."""
        cache = None if incremental_state is None else incremental_state.setdefault(CACHE, {})
        x = self.embedding(prev_output_tokens, last=cache is not None)
        masks = encoder_out["encoder_padding_mask"]
        surroundings = Surroundings(None, encoder_out["encoder_out"][0], masks[0] if masks else None, cache)
        x = self.layers(x, surroundings)
        return (x if features_only else self.output_layer(x)), {"attn": None}

    def extract_features(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict]:
        return self(*args, features_only=True, **kwargs)

    def output_layer(self, features: Tensor) -> Tensor:
        """Logits of (B, T, C), from the embeddings' own weights."""
        return F.linear(self.out_proj(features), self.embedding.tokens.weight)

    def reorder_incremental_state(self, incremental_state: dict, new_order: Tensor) -> None:
        incremental_state[CACHE] = reordered_cache(incremental_state.get(CACHE, {}), new_order)

    def max_positions(self) -> int:
        return self.longest
