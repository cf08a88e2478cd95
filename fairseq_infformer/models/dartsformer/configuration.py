"""The settings of DARTSformer's models, as fairseq's command line takes them."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks.translation import TranslationTask

from fairseq_infformer.errors import InputError, option
from fairseq_infformer.models.configuration import check_types
from fairseq_infformer.modules.operations import DECODER_OPERATIONS, ENCODER_OPERATIONS
from fairseq_infformer.modules.operations.node import POOLINGS

from .architecture import operations_for

SIZES = ("embed_dim", "factor_dim", "encoder_layers", "decoder_layers", "attention_heads", "ffn_ratio")


@dataclass
class NetConfig(FairseqDataclass):
    """What both models have."""

    embed_dim: int = field(
        default=960, metadata={"help": "width of the hidden states, a multiple of the splits of encoder and decoder"}
    )
    factor_dim: int = field(
        default=256, metadata={"help": "width of the embeddings, which a projection brings to --embed-dim and back"}
    )
    encoder_layers: int = field(default=12, metadata={"help": "number of layers of the encoder"})
    decoder_layers: int = field(default=12, metadata={"help": "number of layers of the decoder"})
    attention_heads: int = field(
        default=8, metadata={"help": "heads of attention and of dynamic convolutions, in every split"}
    )
    ffn_ratio: int = field(
        default=4, metadata={"help": "units of a feed-forward network, as a multiple of the width of its split"}
    )
    pooling: ChoiceEnum(list(POOLINGS)) = field(
        default="max", metadata={"help": "what an operation sees of the other splits, element by element"}
    )
    dropout: float = field(
        default=0.1, metadata={"help": "dropout on embeddings, attention weights and outputs of operations"}
    )
    share_all_embeddings: bool = field(
        default=False, metadata={"help": "one embedding for source and target, whose dictionaries must be the same"}
    )


@dataclass
class DartsformerConfig(NetConfig):
    architecture: Optional[str] = field(
        default=None,
        metadata={
            "help": "file of JSON with the operation of every node, as infformer-architecture writes it; checkpoints "
            "hold its content"
        },
    )


@dataclass
class DartsformerSearchConfig(NetConfig):
    splits: int = field(default=2, metadata={"help": "splits of the encoder's layers; the decoder has one more"})
    search_layers: int = field(
        default=2,
        metadata={"help": "consecutive layers that are searched, and repeat until the net has all its layers"},
    )
    encoder_operations: str = field(
        default=",".join(ENCODER_OPERATIONS), metadata={"help": "operations of every node, separated by commas"}
    )
    decoder_operations: str = field(
        default=",".join(DECODER_OPERATIONS),
        metadata={"help": "the same of the decoder, to which the source attention continuous-attention can be added"},
    )
    keep_activations: bool = field(
        default=False,
        metadata={"help": "keep the activations of all layers for the backward pass instead of rebuilding them"},
    )


def check_net(cfg: NetConfig, config_type: type[NetConfig], task: Any, splits: int, repeated: int) -> None:
    """InputError names a wrong setting of a net whose layers have ``splits`` nodes and repeat after ``repeated``."""
    check_types(cfg, config_type)
    if not isinstance(task, TranslationTask):
        raise InputError("DARTSformer translates; give --task translation, or translation_search to search")
    if task.cfg.left_pad_target:
        raise InputError("--left-pad-target would put pads before the text that a decoder continues; leave it out")
    for name in SIZES:
        if (value := getattr(cfg, name)) < 1:
            raise InputError(f"{option(name)} must be 1 or more, got {value}")
    if not 0 <= cfg.dropout < 1:
        raise InputError(f"--dropout must lie in [0, 1), got {cfg.dropout}")
    for parts in (splits, splits + 1):
        if cfg.embed_dim % (parts * cfg.attention_heads):
            raise InputError(
                f"--embed-dim must be a multiple of {parts} splits times --attention-heads, got {cfg.embed_dim} and "
                f"{cfg.attention_heads}"
            )
    for name in ("encoder_layers", "decoder_layers"):
        if (layers := getattr(cfg, name)) % repeated:
            raise InputError(f"{option(name)} must be a multiple of the {repeated} layers that repeat, got {layers}")
    if cfg.share_all_embeddings and task.source_dictionary != task.target_dictionary:
        raise InputError(
            "--share-all-embeddings needs one dictionary; prepare the data with fairseq-preprocess --joined-dictionary"
        )


def searched(cfg: DartsformerSearchConfig, side: str) -> list[str]:
    """The operations among which the search of a side chooses; InputError names one that does not suit."""
    name = f"{side}_operations"
    names = getattr(cfg, name).split(",")
    for each in names:
        if each not in (known := operations_for(side)):
            raise InputError(f"{option(name)} has {each!r}; choose from {', '.join(sorted(known))}")
    if len(set(names)) < len(names) or len(set(names) - {"zero"}) < 2:
        raise InputError(f"{option(name)} must be two or more different operations beside zero, got {','.join(names)}")
    return names
