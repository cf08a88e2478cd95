"""Memformer in the place of a decoder: the same width, as many layers and as many parameters."""

from collections.abc import Sequence
from dataclasses import fields

import fairseq_infformer.plugin  # noqa: F401  (first: importing fairseq configures logging otherwise)

# isort: split
from fairseq import options
from torch import nn

from fairseq_infformer.errors import option
from fairseq_infformer.models.configuration import TransformerConfig, options_of, plain, with_defaults
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerConfig, build_layer
from fairseq_infformer.models.memformer_lm import MODEL, MemformerConfig, encoder_layer, memory_writer
from fairseq_infformer.models.pretrained_lm import ARCH as PRETRAINED
from fairseq_infformer.modules.layers import MemformerDecoderLayer
from fairseq_infformer.modules.memories import MEMORIES
from recipes.launches import die

MODEL_OPTIONS = {option(known.name) for known in fields(InfiniteFormerConfig)}
SLOTS = {option(name) for name in options_of(MEMORIES["slots"]).values()}
DEFAULTS = {known.name: known.default for known in fields(MemformerConfig)}


def as_memformer(arguments: Sequence[str]) -> list[str]:
    """The arguments of fairseq-train for Memformer, from those for a decoder.

    A third of the layers is the encoder's, as in the paper. The width of the feed-forward networks makes the parameters
    of all layers as many as those of the decoder's, with the long-term memory that the arguments name.
    """
    row = list(arguments).index(MODEL)  # what the row of recipes.memories adds
    arguments = [*arguments[: row - 1], *arguments[row + 1 :]]
    if PRETRAINED in arguments:
        die("--memory memformer is a model of its own, which is trained from scratch; leave it out")
    words = ["data", "--task", "streaming_language_modeling", *arguments]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    cfg = with_defaults(args, InfiniteFormerConfig)  # fairseq leaves out what was not given
    wanted = sum(num_parameters(build_layer(cfg, number, True)) for number in range(cfg.decoder_layers))
    shared = [known.name for known in fields(TransformerConfig) if not known.name.startswith("_")]
    layers = max(1, cfg.decoder_layers // 3)
    own = {name: getattr(cfg, name) for name in shared}
    own |= {"slots_count": cfg.slots_count, "long_term_memory": "slots"}
    own |= {"encoder_layers": layers, "decoder_layers": max(1, cfg.decoder_layers - layers)}
    least, more = (layer_parameters(MemformerConfig(**own | {"decoder_ffn_embed_dim": width})) for width in (1, 2))
    own["decoder_ffn_embed_dim"] = 1 + max(0, wanted - least) // (more - least)
    given = without(arguments, {*MODEL_OPTIONS, "--arch"} - SLOTS)
    for name in dict.fromkeys((*shared, "encoder_layers")):
        if (value := plain(own[name])) != plain(DEFAULTS[name]):
            given += [option(name)] if value is True else [option(name), str(value)]
    return [*given, "--arch", MODEL]


def layer_parameters(cfg: MemformerConfig) -> int:
    """Parameters of all layers and of the memory's writer."""
    sizes = cfg.decoder_embed_dim, cfg.decoder_attention_heads, cfg.decoder_ffn_embed_dim
    layers = [encoder_layer(cfg, True) for _ in range(cfg.encoder_layers)]
    layers += [MemformerDecoderLayer(*sizes) for _ in range(cfg.decoder_layers)]
    norm = 2 * cfg.decoder_embed_dim  # of the encoder
    return sum(map(num_parameters, [*layers, memory_writer(cfg)])) + norm


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without(arguments: Sequence[str], names: set[str]) -> list[str]:
    """``arguments`` without these options and their values."""
    kept, dropping = [], False
    for word in arguments:
        if word.startswith("--"):
            dropping = word in names
        if not dropping:
            kept.append(word)
    return kept
