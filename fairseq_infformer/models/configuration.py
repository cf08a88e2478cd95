"""The settings of the ∞-former language model, as fairseq's command line takes them."""

import typing
from contextlib import nullcontext
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import OmegaConf, open_dict

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.attention import POSITION_ENCODINGS
from fairseq_infformer.modules.layers import ACTIVATIONS
from fairseq_infformer.modules.memories import ABLATIONS, LISTENERS, MEMORIES
from fairseq_infformer.modules.memories.base import Registered


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
    long_term_memory: str = field(
        default="continuous",
        metadata={
            "help": "continuous, the ∞-former's; compressive, the Compressive Transformer's; none: a Transformer-XL; "
            "or one that you have registered"
        },
    )
    ltm_layers: str = field(
        default="all", metadata={"help": "layers with a long-term memory: all, or numbers from 0, e.g. 2,3"}
    )
    ltm_ablation: ChoiceEnum(["none", *ABLATIONS]) = field(
        default="none",
        metadata={
            "help": "for evaluation: zero: read nothing from the long-term memory; swap: read that of another row of "
            "the process's batch, which goes on to remember its own text"
        },
    )


# ---- Options of the long-term memories


def add_options(name: str) -> None:
    """Give ``InfiniteFormerConfig`` a field for each setting of the memory that is registered under ``name``."""
    for setting, option in options_of(MEMORIES[name]).items():
        InfiniteFormerConfig.__annotations__[option] = _type(setting)
        default = _spelt(setting.default)
        setattr(InfiniteFormerConfig, option, field(default=default, metadata={"help": setting.metadata["help"]}))
    for known in fields(InfiniteFormerConfig):  # whose defaults stand where dataclass looks for their help
        if known.name in InfiniteFormerConfig.__annotations__:
            setattr(InfiniteFormerConfig, known.name, known)
    for made in ("__init__", "__repr__", "__eq__", "__match_args__"):
        delattr(InfiniteFormerConfig, made)
    dataclass(InfiniteFormerConfig)


def options_of(registered: Registered) -> dict[Field, str]:
    """The settings of a memory, each with the name of its field in ``InfiniteFormerConfig``."""
    return {setting: f"{registered.prefix}_{setting.name}" for setting in fields(registered.settings)}


def memory_settings(cfg: InfiniteFormerConfig, registered: Registered) -> Any:
    """The settings of a memory from those of the model; InputError names an option that cannot be read."""
    values = {}
    for setting, option in options_of(registered).items():
        value = plain(getattr(cfg, option))
        if kinds := _numbers_in(setting):
            value = tuple(numbers(value, kinds, spelt(option)))
        values[setting.name] = value
    return registered.settings(**values)


def spelt(name: str) -> str:
    """A setting's name as its option."""
    return f"--{name.replace('_', '-')}"


def _type(setting: Field) -> Any:
    if "choices" in setting.metadata:
        return ChoiceEnum(list(setting.metadata["choices"]))
    return str if _numbers_in(setting) else setting.type


def _numbers_in(setting: Field) -> Optional[type]:
    """float for a tuple of floats, and so on; None for anything else."""
    return typing.get_args(setting.type)[0] if typing.get_origin(setting.type) is tuple else None


def _spelt(default: Any) -> Any:
    return ",".join(map(str, default)) if isinstance(default, tuple) else default


# ---- Values


def with_defaults(cfg: Any) -> Any:
    """The settings of a named architecture, with the defaults of options that a checkpoint was saved without."""
    missing = {option.name: option.default for option in fields(InfiniteFormerConfig) if option.name not in cfg}
    with open_dict(cfg) if OmegaConf.is_config(cfg) else nullcontext():
        for name, default in missing.items():
            setattr(cfg, name, default)
    return cfg


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
            raise InputError(f"{spelt(option.name)} must be {described(option.type)}, got {plain(value)!r}")


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


for _name in MEMORIES:
    add_options(_name)
LISTENERS.append(add_options)
