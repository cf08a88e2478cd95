"""Memformer for fairseq: an encoder–decoder with one memory for the whole model."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.data import Dictionary
from fairseq.models import register_model, register_model_architecture

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.layers import MemformerDecoderLayer, MemformerEncoderLayer
from fairseq_infformer.modules.memories import SettingError
from fairseq_infformer.modules.memories.slots import SlotWriter

from .architectures import set_defaults
from .configuration import (
    TransformerConfig,
    check_sizes,
    layers_with_memory,
    mark_as_memory,
    memory_settings,
    named_as_typed,
    registered_memory,
    set_up_memory,
    with_defaults,
    with_memory_options,
)
from .memformer_decoder import MemformerDecoder
from .streaming_lm import StreamingLanguageModel
from .vocabulary_layers import input_embedding

MODEL = "memformer_lm"


@with_memory_options(MODEL)
@dataclass
class MemformerConfig(TransformerConfig):
    long_term_memory: str = field(default="slots", metadata={"help": "slots, or none (nothing but the last segment)"})
    ltm_layers: str = field(
        default="all", metadata={"help": "layers of the encoder that read the memory: all, or numbers from 0, e.g. 2,3"}
    )
    encoder_layers: int = field(default=4, metadata={"help": "number of layers of the encoder"})
    decoder_layers: int = field(default=8, metadata={"help": "number of layers of the decoder"})


@register_model(MODEL, dataclass=MemformerConfig)
class MemformerLM(StreamingLanguageModel):
    """Memformer (Wu et al. 2022): the encoder reads a segment and the memory, the decoder predicts the next segment."""

    @classmethod
    def build_model(cls, cfg: MemformerConfig, task: Any) -> "MemformerLM":
        """Build the model for ``task.source_dictionary``; InputError names a wrong setting."""
        return cls.build(with_defaults(cfg, MemformerConfig), task.source_dictionary)

    @classmethod
    def build(cls, cfg: MemformerConfig, dictionary: Dictionary) -> "MemformerLM":
        """Build the model for a dictionary; InputError names a wrong setting."""
        check_sizes(cfg, MemformerConfig)
        if (name := str(cfg.long_term_memory)) not in ("none", "slots"):
            raise InputError(f"--long-term-memory of {MODEL} must be slots or none, got {name!r}")
        embed_tokens = input_embedding(cfg, dictionary)
        readers = layers_with_memory(cfg, cfg.encoder_layers)
        encoder = [encoder_layer(cfg, number in readers) for number in range(cfg.encoder_layers)]
        decoder = [MemformerDecoderLayer(*_sizes(cfg), **_settings(cfg)) for _ in range(cfg.decoder_layers)]
        writer = memory_writer(cfg) if readers else None
        return cls(MemformerDecoder(cfg, dictionary, embed_tokens, encoder, writer, decoder))


def encoder_layer(cfg: MemformerConfig, reads: bool) -> MemformerEncoderLayer:
    """A layer of the encoder, which reads the memory or not."""
    layer = MemformerEncoderLayer(*_sizes(cfg), reads=reads, **_settings(cfg))
    if reads:
        set_up_memory(layer.reader, layer.reader, cfg)
    return layer


def memory_writer(cfg: MemformerConfig) -> SlotWriter:
    """What writes the memory; InputError names a wrong setting."""
    registered = registered_memory(cfg)
    settings = memory_settings(cfg, registered)
    try:
        writer = SlotWriter(cfg.decoder_embed_dim, cfg.decoder_attention_heads, settings.count, settings.temperature)
    except SettingError as error:
        raise named_as_typed(error, registered) from error
    mark_as_memory(writer)
    return writer


def _sizes(cfg: MemformerConfig) -> tuple[int, int, int]:
    return cfg.decoder_embed_dim, cfg.decoder_attention_heads, cfg.decoder_ffn_embed_dim


def _settings(cfg: MemformerConfig) -> dict[str, Any]:
    return {
        "dropout": cfg.dropout,
        "attention_dropout": cfg.attention_dropout,
        "activation_dropout": cfg.activation_dropout,
        "activation": str(cfg.activation_fn),
    }


@register_model_architecture(MODEL, "memformer_lm_tiny")
def memformer_lm_tiny(args: Any) -> None:
    """As large as the quickstart's other models, and as fast to train."""
    set_defaults(
        args,
        decoder_embed_dim=128,
        decoder_ffn_embed_dim=256,
        encoder_layers=1,
        decoder_layers=1,
        decoder_attention_heads=4,
        dropout=0.0,
        slots_count=8,
    )


@register_model_architecture(MODEL, "memformer_lm_wt103")
def memformer_lm_wt103(args: Any) -> None:
    """The WikiText-103 model of 2020 (section 3.1): 4 and 8 layers of 512, 32 slots, no dropout; segments of 64."""
    set_defaults(args, dropout=0.0)


@register_model_architecture(MODEL, "memformer_lm_wt103_large")
def memformer_lm_wt103_large(args: Any) -> None:
    """The larger one of 2022: 4 and 16 layers, 1,024 slots."""
    set_defaults(args, decoder_layers=16, slots_count=1024, dropout=0.0)
