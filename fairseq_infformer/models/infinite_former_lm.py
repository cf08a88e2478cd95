"""The ∞-former language model for fairseq, and its construction from settings."""

import argparse
import textwrap
from pathlib import Path
from typing import Any, Optional

from fairseq.data import Dictionary
from fairseq.models import register_model

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.modules.layers import InfiniteFormerLayer
from fairseq_infformer.modules.memories import LongTermMemory, SettingError
from fairseq_infformer.modules.pointer import Pointer
from fairseq_infformer.vocabulary_files import DICTIONARY, load_dictionary

from . import export_format
from .configuration import (
    InfiniteFormerConfig,
    check_settings,
    layers_with_memory,
    mark_as_memory,
    memory_settings,
    named_as_typed,
    registered_memory,
    set_up_memory,
    with_defaults,
)
from .decoder import InfiniteFormerDecoder
from .streaming_lm import StreamingLanguageModel
from .vocabulary_layers import input_embedding


@register_model("infinite_former_lm", dataclass=InfiniteFormerConfig)
class InfiniteFormerLM(StreamingLanguageModel):
    """∞-former language model; by ``--long-term-memory``, also a Compressive Transformer or a Transformer-XL."""

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the model's options, and refuse one that it had in earlier versions."""
        super().add_args(parser)
        parser.add_argument("--gpt2", type=_refuse_gpt2, default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    @classmethod
    def build_model(cls, cfg: InfiniteFormerConfig, task: Any) -> "InfiniteFormerLM":
        """Build the model for ``task.source_dictionary``; InputError names a wrong setting."""
        model = cls.build(with_defaults(cfg, InfiniteFormerConfig), task.source_dictionary)
        model.decoder.check_length(getattr(task.cfg, "tokens_per_sample", 0))  # fairseq's own tasks may lack it
        return model

    @classmethod
    def build(cls, cfg: InfiniteFormerConfig, dictionary: Dictionary) -> "InfiniteFormerLM":
        """Build the model for a dictionary; InputError names a wrong setting."""
        check_settings(cfg)
        try:
            return cls(build_decoder(cfg, dictionary))
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error)) from error
        except (ArithmeticError, RuntimeError) as error:
            reason = textwrap.shorten(one_line(error), 160, placeholder=" …")
            raise InputError(f"the model cannot be built with these settings ({reason}); change them") from error

    @classmethod
    def from_pretrained(cls, directory: str | Path, **settings: Any) -> "InfiniteFormerLM":
        """The model that ``infformer-export`` wrote. Reading it executes nothing, since no file is a pickle.

        Args:
            directory: has model.safetensors, config.json and dict.txt.
            settings: of InfiniteFormerConfig, to replace saved ones, such as ``stm_length``.

        Returns:
            the model in float32, on the CPU and in evaluation mode; its dictionary is ``model.decoder.dictionary``.
            Call it with a text's segments in order, ``model(tokens, segment=0)`` and so on; from each output,
            ``model.get_normalized_probs(out, log_probs=True)`` gives (B, T, V).

        Raises:
            InputError: if a file is missing, damaged or of another model, or a setting is wrong.
        """
        folder = Path(directory)
        config = export_format.read_config(folder)
        export_format.check_files(folder, config["sha256"])
        source = folder / export_format.CONFIG
        export_format.configuration(InfiniteFormerConfig, settings, "from_pretrained")
        cfg = export_format.configuration(InfiniteFormerConfig, config["model"] | settings, source)
        model = cls.build(cfg, load_dictionary(folder / DICTIONARY))
        export_format.read_weights(folder, model)
        return model.eval()


def _refuse_gpt2(folder: str) -> None:
    raise argparse.ArgumentTypeError(f"give --arch infinite_former_pretrained --pretrained {folder} instead")


def build_decoder(cfg: InfiniteFormerConfig, dictionary: Dictionary) -> InfiniteFormerDecoder:
    """The decoder that ``cfg`` describes."""
    embed_tokens = input_embedding(cfg, dictionary)
    with_memory = layers_with_memory(cfg, cfg.decoder_layers)
    layers = [build_layer(cfg, number, number in with_memory) for number in range(cfg.decoder_layers)]
    return InfiniteFormerDecoder(cfg, dictionary, embed_tokens, layers, build_pointer(cfg))


def build_layer(cfg: InfiniteFormerConfig, number: int, with_memory: bool) -> InfiniteFormerLayer:
    """The layer of this number, from 0, with a long-term memory or without."""
    return InfiniteFormerLayer(
        embed_dim=cfg.decoder_embed_dim,
        num_heads=cfg.decoder_attention_heads,
        ffn_dim=cfg.decoder_ffn_embed_dim,
        stm_length=cfg.stm_length,
        long_term_memory=build_long_term_memory(cfg, number) if with_memory else None,
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
        activation=str(cfg.activation_fn),
        position_encoding=str(cfg.position_encoding),
        attention_bias=cfg.attention_bias,
    )


def build_pointer(cfg: InfiniteFormerConfig) -> Optional[Pointer]:
    """The pointer that ``cfg`` asks for, if it does."""
    if not cfg.pointer_length:
        return None
    pointer = Pointer(cfg.decoder_embed_dim, cfg.pointer_length, cfg.pointer_half_life, str(cfg.ltm_ablation))
    mark_as_memory(pointer)
    return pointer


def build_long_term_memory(cfg: InfiniteFormerConfig, layer: int) -> LongTermMemory:
    """The long-term memory of the layer of this number, from 0; InputError names a wrong setting."""
    registered = registered_memory(cfg)
    settings = memory_settings(cfg, registered)
    try:
        memory = registered.memory.build(settings, cfg.decoder_embed_dim, cfg.decoder_attention_heads, layer)
    except SettingError as error:
        raise named_as_typed(error, registered) from error
    set_up_memory(memory, memory, cfg)
    return memory
