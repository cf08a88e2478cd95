"""The settings of the language models, as fairseq's command line takes them."""

import typing
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from typing import Any, Optional, TypeVar

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf, open_dict
from torch import nn

from fairseq_infformer.errors import InputError, option
from fairseq_infformer.modules.attention import POSITION_ENCODINGS
from fairseq_infformer.modules.layers import ACTIVATIONS
from fairseq_infformer.modules.memories import ABLATIONS, LISTENERS, MEMORIES, Readable, SettingError, ablate
from fairseq_infformer.modules.memories.base import Registered

# The least value of each size; the modules check those of their own settings.
AT_LEAST = {
    "decoder_embed_dim": 1,
    "decoder_ffn_embed_dim": 1,
    "decoder_layers": 1,
    "encoder_layers": 1,
    "decoder_attention_heads": 1,
    "max_target_positions": 1,
    "stm_length": 0,
    "pointer_length": 0,
    "pointer_half_life": 1,
}
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "adaptive_softmax_dropout")


# The configurations with options of memories, by the models that they belong to.
WITH_MEMORY: dict[str, type["MemoryConfig"]] = {}


@dataclass
class MemoryConfig(FairseqDataclass):
    """What all models with a long-term memory have."""

    long_term_memory: str = field(
        default="continuous",
        metadata={
            "help": f"{', '.join(sorted(MEMORIES))}, none (a Transformer-XL), or one that your plugin registers; see "
            "docs/memories.md"
        },
    )
    ltm_layers: str = field(
        default="all", metadata={"help": "layers with a long-term memory: all, or numbers from 0, e.g. 2,3"}
    )
    ltm_ablation: ChoiceEnum(["none", *ABLATIONS]) = field(
        default="none",
        metadata={
            "help": "for evaluation: zero reads nothing from the long-term memory; swap reads the memory of another "
            "row of the same process's batch"
        },
    )


Config = TypeVar("Config", bound=MemoryConfig)


def with_memory_options(model: str) -> Callable[[type[Config]], type[Config]]:
    """Class decorator for the configuration of a model: a field for each setting of every memory, now and later."""

    def decorate(config: type[Config]) -> type[Config]:
        WITH_MEMORY[model] = config
        for name in MEMORIES:
            _add_options(config, name)
        return config

    return decorate


def add_memory(name: str) -> None:
    """Give a memory that is registered after the models its options, and let fairseq know them."""
    for model, config in WITH_MEMORY.items():
        _add_options(config, name)
        node = config()
        node._name = model
        ConfigStore.instance().store(name=model, group="model", node=node, provider="fairseq")


def _add_options(config: type[MemoryConfig], name: str) -> None:
    for setting, field_name in options_of(MEMORIES[name]).items():
        config.__annotations__[field_name] = _type(setting)
        metadata = {"help": setting.metadata["help"]}
        setattr(config, field_name, field(default=_as_typed(setting.default), metadata=metadata))
    # The decorator left defaults where it would look for the fields and their help.
    for known in fields(config):
        if known.name in config.__annotations__:
            setattr(config, known.name, known)
    for generated in ("__init__", "__repr__", "__eq__", "__match_args__"):
        delattr(config, generated)
    dataclass(config)


LISTENERS.append(add_memory)


def options_of(registered: Registered) -> dict[Field, str]:
    """The settings of a memory, each with the name of its field in the configurations."""
    return {setting: f"{registered.prefix}_{setting.name}" for setting in fields(registered.settings)}


def _type(setting: Field) -> Any:
    if "choices" in setting.metadata:
        return ChoiceEnum(list(setting.metadata["choices"]))
    return str if _numbers_in(setting) else setting.type


def _numbers_in(setting: Field) -> Optional[type]:
    """float for a tuple of floats, and so on; None for anything else."""
    return typing.get_args(setting.type)[0] if typing.get_origin(setting.type) is tuple else None


def _as_typed(default: Any) -> Any:
    return ",".join(map(str, default)) if isinstance(default, tuple) else default


@dataclass
class TransformerConfig(MemoryConfig):
    """What all models that are trained from scratch have."""

    decoder_embed_dim: int = field(default=512, metadata={"help": "width of the hidden states"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "width of the feed-forward networks"})
    decoder_layers: int = field(default=6, metadata={"help": "number of layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "number of attention heads"})
    activation_fn: ChoiceEnum(list(ACTIVATIONS)) = field(
        default="relu", metadata={"help": "activation function of the feed-forward networks"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout on embeddings and sublayer outputs"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the feed-forward networks"})
    untie_embeddings: bool = field(
        default=False, metadata={"help": "give the output layer its own weights, not the input embedding's"}
    )
    adaptive_input: bool = field(default=False, metadata={"help": "embed rare words in fewer dimensions"})
    adaptive_input_cutoff: Optional[str] = field(
        default=None,
        metadata={
            "help": "numbers of the words at which the narrower bands of the adaptive input start, e.g. 20000,60000 "
            "(default: those of --adaptive-softmax-cutoff)"
        },
    )
    adaptive_input_factor: float = field(
        default=4, metadata={"help": "each band of the adaptive input is so many times narrower than the last"}
    )
    adaptive_softmax_cutoff: Optional[str] = field(
        default=None,
        metadata={"help": "use an adaptive softmax whose narrower bands start at these words, e.g. 20000,60000"},
    )
    adaptive_softmax_factor: float = field(
        default=4, metadata={"help": "each band of the adaptive softmax is so many times narrower than the last"}
    )
    adaptive_softmax_dropout: float = field(
        default=0, metadata={"help": "dropout in the bands of the adaptive softmax"}
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute each layer's activations in the backward pass, which saves memory"}
    )
    no_scale_embedding: bool = field(
        default=False,
        metadata={"help": "do not multiply embeddings by √width, as in GPT-2; those of an adaptive input never are"},
    )


@with_memory_options("infinite_former_lm")
@dataclass
class InfiniteFormerConfig(TransformerConfig):
    stm_length: int = field(
        default=512,
        metadata={"help": "short-term memory: number of past hidden states each layer attends to; 0 for none"},
    )
    position_encoding: ChoiceEnum(list(POSITION_ENCODINGS)) = field(
        default="xl",
        metadata={
            "help": "position encoding of ordinary attention: xl (Transformer-XL's), rope (rotary), alibi (linear "
            "biases), or learned (an embedding per position in the segment, added to the token's; needs --stm-length 0)"
        },
    )
    max_target_positions: int = field(
        default=1024,
        metadata={"help": "with --position-encoding learned: number of positions, and so the longest possible segment"},
    )
    attention_bias: bool = field(
        default=False, metadata={"help": "give the projections of attention biases, as in GPT-2"}
    )
    pointer_length: int = field(
        default=0,
        metadata={
            "help": "pointer: words of the text before that the output layer can point at, half of them the last ones "
            "and half those that surprised it most; 0: no pointer"
        },
    )
    pointer_half_life: int = field(default=1024, metadata={"help": "pointer: words after which a surprise counts half"})


# ---- Values of a long-term memory's options


def registered_memory(cfg: MemoryConfig) -> Registered:
    """The memory that ``cfg`` names; InputError if there is none of this name."""
    if (name := str(cfg.long_term_memory)) not in MEMORIES:
        raise InputError(f"--long-term-memory must be one of none, {', '.join(MEMORIES)}, got {name!r}")
    return MEMORIES[name]


def set_up_memory(part: nn.Module, memory: Readable, cfg: MemoryConfig) -> None:
    """Ablate the memory of a layer as ``cfg`` says, and let an optimizer tell its parameters apart.

    Args:
        part: what has these parameters, the memory or what it stands in.
    """
    mark_as_memory(part)
    if (ablation := str(cfg.ltm_ablation)) != "none":
        ablate(memory, ablation)


def mark_as_memory(part: nn.Module) -> None:
    """Let an optimizer tell the parameters of a memory apart."""
    for parameter in part.parameters():
        parameter.param_group = "ltm"  # fairseq's attribute for it


def layers_with_memory(cfg: MemoryConfig, num_layers: int) -> list[int]:
    """The numbers of the layers with a memory; InputError if the model does not have one of them."""
    if str(cfg.long_term_memory) == "none":
        return []
    if cfg.ltm_layers == "all":
        return list(range(num_layers))
    chosen = sorted(set(numbers(cfg.ltm_layers, int, "--ltm-layers")))
    if not set(chosen) <= set(range(num_layers)):
        raise InputError(f"--ltm-layers must lie in 0..{num_layers - 1}, got {cfg.ltm_layers}")
    return chosen


def named_as_typed(error: SettingError, registered: Registered) -> InputError:
    """A wrong setting of a memory, by the name of its option."""
    return InputError(f"{option(f'{registered.prefix}_{error.setting}')} {error.problem}")


def memory_settings(cfg: MemoryConfig, registered: Registered) -> Any:
    """The settings of a memory from those of the model; InputError names an option that cannot be read."""
    values = {}
    for setting, field_name in options_of(registered).items():
        value = plain(getattr(cfg, field_name))
        if number_type := _numbers_in(setting):
            value = tuple(numbers(value, number_type, option(field_name)))
        values[setting.name] = value
    return registered.settings(**values)


# ---- Values


def with_defaults(cfg: Any, config_type: type[MemoryConfig]) -> Any:
    """The settings of a named architecture, with the defaults of those that a checkpoint was saved without."""
    missing = {known.name: known.default for known in fields(config_type) if known.name not in cfg}
    with open_dict(cfg) if OmegaConf.is_config(cfg) else nullcontext():
        for name, default in missing.items():
            setattr(cfg, name, default)
    return cfg


def numbers(text: str, number_type: type, option_name: str) -> list:
    """The numbers in ``text``, which are separated by commas; InputError names the option."""
    try:
        return [number_type(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"{option_name} must be numbers separated by commas, got {text!r}") from None


def check_types(cfg: MemoryConfig, config_type: type[MemoryConfig]) -> None:
    """InputError names a setting with a value that no option would take, as --model-overrides may give."""
    for known in fields(config_type):
        if not takes(known.type, value := getattr(cfg, known.name)):
            raise InputError(f"{option(known.name)} must be {described(known.type)}, got {plain(value)!r}")


def check_settings(cfg: InfiniteFormerConfig) -> None:
    """InputError names a setting with a wrong value, or two that do not go together.

    The values of a memory's settings are checked when it is built.
    """
    check_sizes(cfg, InfiniteFormerConfig)
    width, heads = cfg.decoder_embed_dim, cfg.decoder_attention_heads
    if str(cfg.position_encoding) == "rope" and width // heads % 2:
        raise InputError(
            "--position-encoding rope rotates pairs of channels, so --decoder-embed-dim / --decoder-attention-heads "
            f"must be even, got {width} / {heads}"
        )
    if str(cfg.position_encoding) == "learned" and cfg.stm_length:
        raise InputError(
            "--position-encoding learned starts over in every segment, so a short-term memory would repeat positions; "
            f"give --stm-length 0 instead of {cfg.stm_length}"
        )
    if cfg.pointer_length and cfg.adaptive_softmax_cutoff is not None:
        raise InputError(
            f"--pointer-length {cfg.pointer_length} needs the logits of all words, which --adaptive-softmax-cutoff "
            f"{cfg.adaptive_softmax_cutoff} does not compute; leave one out"
        )


def check_sizes(cfg: TransformerConfig, config_type: type[TransformerConfig]) -> None:
    """InputError names a setting of the wrong type, a size that is too small, or a wrong probability."""
    check_types(cfg, config_type)
    for name, least in AT_LEAST.items():
        if (value := getattr(cfg, name, least)) < least:
            raise InputError(f"{option(name)} must be {least} or more, got {value}")
    for name in DROPOUTS:
        if not 0 <= (value := getattr(cfg, name, 0)) < 1:
            raise InputError(f"{option(name)} must lie in [0, 1), got {value}")
    width, heads = cfg.decoder_embed_dim, cfg.decoder_attention_heads
    if width % heads:
        raise InputError(
            f"--decoder-embed-dim must be a multiple of --decoder-attention-heads, got {width} and {heads}"
        )


def takes(value_type: Any, value: Any) -> bool:
    """Whether a value is of the type of a configuration's field."""
    if alternatives := typing.get_args(value_type):  # of Optional
        return any(takes(alternative, value) for alternative in alternatives)
    if issubclass(value_type, Enum):
        return plain(value) in [choice.value for choice in value_type]
    return type(value) is value_type or (value_type is float and type(value) is int)


def described(value_type: Any) -> str:
    """The values that a field of this type takes, in words."""
    if alternatives := typing.get_args(value_type):
        return " or ".join(map(described, alternatives))
    if issubclass(value_type, Enum):
        return f"one of {', '.join(choice.value for choice in value_type)}"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}
    return words[value_type]


def plain(value: Any) -> Any:
    """A choice as its text, anything else unchanged."""
    return value.value if isinstance(value, Enum) else value
