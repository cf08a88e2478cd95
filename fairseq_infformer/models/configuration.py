"""The settings of the ∞-former language model, as fairseq's command line takes them."""

import typing
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules import COMPRESSIONS, DENSITIES
from fairseq_infformer.modules.attention import POSITION_ENCODINGS
from fairseq_infformer.modules.layers import ACTIVATIONS
from fairseq_infformer.modules.memories.continuous import ADDRESSINGS, CONTRACTIONS
from fairseq_infformer.modules.memories.continuous.sampling import SAMPLINGS


@dataclass
class InfiniteFormerConfig(FairseqDataclass):
    decoder_embed_dim: int = field(default=512, metadata={"help": "width of the hidden states"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "width of the feed-forward networks"})
    decoder_layers: int = field(default=6, metadata={"help": "number of layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "number of attention heads"})
    activation_fn: ChoiceEnum(list(ACTIVATIONS)) = field(default="relu", metadata={"help": "feed-forward activation"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on embeddings and sublayer outputs"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the feed-forward networks"})
    untie_embeddings: bool = field(
        default=False, metadata={"help": "give the output layer weights of its own instead of the input embedding's"}
    )
    adaptive_input: bool = field(default=False, metadata={"help": "embed rare words with fewer dimensions"})
    adaptive_input_cutoff: Optional[str] = field(
        default=None,
        metadata={"help": "where the bands of the adaptive input start, e.g. 20000,60000 (default: the softmax's)"},
    )
    adaptive_input_factor: float = field(default=4, metadata={"help": "each band is this much narrower"})
    adaptive_softmax_cutoff: Optional[str] = field(
        default=None, metadata={"help": "use the adaptive softmax, with bands that start at, e.g., 20000,60000"}
    )
    adaptive_softmax_factor: float = field(default=4, metadata={"help": "each band is this much narrower"})
    adaptive_softmax_dropout: float = field(default=0, metadata={"help": "dropout in the adaptive softmax's bands"})
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "save memory: recompute each layer's activations in the backward pass"}
    )
    stm_length: int = field(
        default=512, metadata={"help": "short-term memory: past hidden states each layer attends to; 0 for none"}
    )
    position_encoding: ChoiceEnum(list(POSITION_ENCODINGS)) = field(
        default="xl",
        metadata={
            "help": "in ordinary attention: xl (Transformer-XL's), rope (rotary), alibi (linear biases); learned: an "
            "embedding of each place in the segment, added to that of the token (without short-term memory)"
        },
    )
    max_target_positions: int = field(
        default=1024, metadata={"help": "learned positions: how many there are, the longest that a segment can be"}
    )
    attention_bias: bool = field(default=False, metadata={"help": "biases in attention's projections, as GPT-2 has"})
    no_scale_embedding: bool = field(
        default=False,
        metadata={
            "help": "take embeddings as they are, as GPT-2 does, instead of times √width; those of an adaptive input "
            "always are"
        },
    )
    gpt2: Optional[str] = field(
        default=None,
        metadata={
            "help": "start from this pretrained GPT-2, a folder as Hugging Face publishes it; needed once, to train "
            "from it: a checkpoint has all the weights"
        },
    )
    long_term_memory: ChoiceEnum(["continuous", "compressive", "none"]) = field(
        default="continuous",
        metadata={"help": "the ∞-former's continuous memory; the Compressive Transformer's; none: a Transformer-XL"},
    )
    ltm_layers: str = field(
        default="all", metadata={"help": "layers with a long-term memory: all, or numbers from 0, e.g. 2,3"}
    )
    ltm_basis: int = field(default=512, metadata={"help": "N, number of basis functions"})
    ltm_widths: str = field(default="0.01,0.05", metadata={"help": "widths of the basis functions on [0, 1]"})
    ltm_samples: int = field(default=512, metadata={"help": "M, samples of the old signal that an update refits"})
    ltm_ridge: float = field(default=1.0, metadata={"help": "λ, penalty of the ridge regression"})
    ltm_contraction: ChoiceEnum(list(CONTRACTIONS)) = field(
        default="proportional",
        metadata={"help": "fixed (the paper's): the past gets [0, τ]; proportional: every token an equal share"},
    )
    ltm_tau: float = field(default=0.75, metadata={"help": "τ of the fixed contraction"})
    ltm_horizon: Optional[int] = field(
        default=None,
        metadata={
            "help": "of the proportional contraction: how many tokens have equal shares; older ones fade (default: all)"
        },
    )
    ltm_sampling: ChoiceEnum(list(SAMPLINGS)) = field(
        default="uniform",
        metadata={
            "help": "where an update samples the old signal: uniform, or where the last segment's attention looked: "
            "sticky (random draws, the paper's sticky memories) or sticky-quantile (without randomness)"
        },
    )
    ltm_density: str = field(
        default="renormalized-gaussian",
        metadata={"help": f"what a query lays over the memory: {', '.join(DENSITIES)} (gaussian is the paper's)"},
    )
    ltm_addressing: ChoiceEnum(list(ADDRESSINGS)) = field(
        default="projection",
        metadata={
            "help": "how a query finds the mean and variance of its density: projection (the paper's: linear in the "
            "scores of all places), content (those of softmax attention over the memory's places: finds a single fact) "
            "or mixed (half of the heads each)"
        },
    )
    ltm_min_sigma: float = field(
        default=-1, metadata={"help": "floor of the density's σ; -1: the narrowest width; 0: none, the paper's form"}
    )
    ltm_flat_start: bool = field(
        default=False,
        metadata={"help": "start all heads with the paper's flat read instead of heads that tile the memory"},
    )
    compressive_length: int = field(
        default=512, metadata={"help": "compressive memory: vectors it keeps, each of which stands for several tokens"}
    )
    compressive_rate: int = field(default=4, metadata={"help": "compressive memory: tokens that become one vector"})
    compressive_function: ChoiceEnum(list(COMPRESSIONS)) = field(
        default="conv",
        metadata={"help": "compressive memory: how: conv, trained to keep what attention finds there; mean; max"},
    )
    ltm_ablation: ChoiceEnum(["none", "zero", "swap"]) = field(
        default="none",
        metadata={
            "help": "for evaluation: zero: read nothing from the long-term memory; swap: read that of another row of "
            "the process's batch, which goes on to remember its own text"
        },
    )


def numbers(text: str, kind: type, option: str) -> list:
    """The numbers in ``text``, with commas between; InputError names the option."""
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"{option} takes numbers with commas between, got {text!r}") from None


def bands(text: str, num_types: int, option: str, embed_dim: int, factor: float) -> list[int]:
    """Where the bands of an adaptive input or softmax start; InputError if they leave a band no width or no words."""
    cutoffs = numbers(text, int, option)
    if not 1 <= factor <= embed_dim ** (1 / len(cutoffs)):
        raise InputError(
            f"{option.replace('cutoff', 'factor')} {factor:g} leaves no width of {embed_dim} to band {len(cutoffs)}; "
            f"give one in 1..{embed_dim ** (1 / len(cutoffs)):.3g}"
        )
    if not all(low < high for low, high in zip([0, *cutoffs], [*cutoffs, num_types])):
        raise InputError(f"{option} must rise and stay below the {num_types} types of the dictionary, got {text}")
    return cutoffs


def check_settings(cfg: InfiniteFormerConfig) -> None:
    """InputError if a setting has a value that its option would not take, such as one of --model-overrides."""
    for option in fields(InfiniteFormerConfig):
        if not takes(option.type, value := getattr(cfg, option.name)):
            raise InputError(
                f"--{option.name.replace('_', '-')} must be {described(option.type)}, got {plain(value)!r}"
            )


def takes(kind: Any, value: Any) -> bool:
    """Whether a value is of the type of a configuration's field."""
    if options := typing.get_args(kind):  # of Optional
        return any(takes(option, value) for option in options)
    if issubclass(kind, Enum):
        return plain(value) in [choice.value for choice in kind]
    return type(value) is kind or (kind is float and type(value) is int)


def described(kind: Any) -> str:
    """The values that a field of this type takes, in words."""
    if options := typing.get_args(kind):
        return " or ".join(map(described, options))
    if issubclass(kind, Enum):
        return f"one of {', '.join(choice.value for choice in kind)}"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}
    return words[kind]


def plain(value: Any) -> Any:
    """A choice as its text, anything else as it is."""
    return value.value if isinstance(value, Enum) else value
