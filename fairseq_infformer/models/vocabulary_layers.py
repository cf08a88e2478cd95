"""The layers at both ends of the decoder, between tokens and hidden states, plain or adaptive."""

from typing import Optional

from fairseq.data import Dictionary
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import nn

from fairseq_infformer.errors import InputError, option

from .configuration import InfiniteFormerConfig, TransformerConfig, numbers


def input_embedding(cfg: TransformerConfig, dictionary: Dictionary) -> nn.Module:
    """The embedding of tokens; InputError names a wrong setting of an adaptive input."""
    if not cfg.adaptive_input:
        embed_tokens = nn.Embedding(len(dictionary), cfg.decoder_embed_dim, dictionary.pad())
        nn.init.normal_(embed_tokens.weight, std=cfg.decoder_embed_dim**-0.5)
        nn.init.zeros_(embed_tokens.weight[dictionary.pad()])
        return embed_tokens
    cutoff = cfg.adaptive_input_cutoff or cfg.adaptive_softmax_cutoff
    if cutoff is None:
        raise InputError(
            "--adaptive-input needs to know where its bands start; give --adaptive-input-cutoff or "
            "--adaptive-softmax-cutoff"
        )
    if not cfg.untie_embeddings and cutoff != cfg.adaptive_softmax_cutoff:
        raise InputError(
            f"tied adaptive input and softmax need the same bands, got --adaptive-input-cutoff {cutoff} and "
            f"--adaptive-softmax-cutoff {cfg.adaptive_softmax_cutoff}; leave the first out or give --untie-embeddings"
        )
    return AdaptiveInput(
        len(dictionary),
        dictionary.pad(),
        cfg.decoder_embed_dim,
        cfg.adaptive_input_factor,
        cfg.decoder_embed_dim,
        _bands(cutoff, len(dictionary), "adaptive_input", cfg.decoder_embed_dim, cfg.adaptive_input_factor),
    )


def position_embedding(cfg: InfiniteFormerConfig) -> Optional[nn.Embedding]:
    """The embedding of learned positions; None for the other encodings, which attention itself adds."""
    if str(cfg.position_encoding) != "learned":
        return None
    embed_positions = nn.Embedding(cfg.max_target_positions, cfg.decoder_embed_dim)
    nn.init.normal_(embed_positions.weight, std=cfg.decoder_embed_dim**-0.5)
    return embed_positions


def adaptive_softmax(
    cfg: TransformerConfig, dictionary: Dictionary, embed_tokens: nn.Module
) -> Optional[AdaptiveSoftmax]:
    """The adaptive softmax, if the settings ask for one; InputError names a wrong setting of it."""
    cutoff = cfg.adaptive_softmax_cutoff
    if cutoff is None:
        return None
    tied = cfg.adaptive_input and not cfg.untie_embeddings
    return AdaptiveSoftmax(
        len(dictionary),
        cfg.decoder_embed_dim,
        _bands(cutoff, len(dictionary), "adaptive_softmax", cfg.decoder_embed_dim, cfg.adaptive_softmax_factor),
        cfg.adaptive_softmax_dropout,
        cfg.adaptive_softmax_factor,
        embed_tokens if tied else None,
        tie_proj=tied,
    )


def output_projection(cfg: TransformerConfig, dictionary: Dictionary, embed_tokens: nn.Module) -> nn.Linear:
    """The plain output layer, whose weight is the input embedding's unless ``--untie-embeddings`` is given."""
    projection = nn.Linear(cfg.decoder_embed_dim, len(dictionary), bias=False)
    if cfg.untie_embeddings:
        nn.init.normal_(projection.weight, std=cfg.decoder_embed_dim**-0.5)
    else:
        projection.weight = embed_tokens.weight
    return projection


def _bands(cutoff: str, num_types: int, layer: str, embed_dim: int, factor: float) -> list[int]:
    """Where the bands of an adaptive layer start; InputError if one of them would have no width or no words."""
    starts = numbers(cutoff, int, option(f"{layer}_cutoff"))
    largest_factor = embed_dim ** (1 / len(starts))
    if not 1 <= factor <= largest_factor:
        raise InputError(
            f"{option(f'{layer}_factor')} {factor:g} leaves no width of {embed_dim} to band {len(starts)}; give one in "
            f"1..{largest_factor:.3g}"
        )
    if not all(low < high for low, high in zip([0, *starts], [*starts, num_types])):
        raise InputError(
            f"{option(f'{layer}_cutoff')} must increase and stay below the {num_types} types of the dictionary, got "
            f"{cutoff}"
        )
    return starts
