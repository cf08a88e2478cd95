"""Simultaneous speech translation for fairseq: a streaming encoder, and a decoder that waits for k reads."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel, register_model, register_model_architecture
from torch import Tensor, nn

from fairseq_infformer.errors import InputError, option
from fairseq_infformer.modules.layers import MemformerDecoderLayer
from fairseq_infformer.modules.memories import LongTermMemory, SettingError
from fairseq_infformer.modules.streaming_encoder import Encoded, StreamingEncoder
from fairseq_infformer.modules.wait_k import check_policy
from fairseq_infformer.modules.whole_encoder import WholeEncoder

from .architectures import set_defaults
from .configuration import (
    MemoryConfig,
    check_sizes,
    layers_with_memory,
    with_defaults,
    with_memory_options,
)
from .infinite_former_lm import build_long_term_memory
from .translation_decoder import WaitKDecoder

MODEL = "streaming_translation"
ALL = "inf"  # reads, for whoever waits for all


@with_memory_options(MODEL)
@dataclass
class StreamingTranslationConfig(MemoryConfig):
    long_term_memory: str = field(
        default="bank",
        metadata={"help": "of the encoder's layers: bank, or any other; none: a segment and its context alone"},
    )
    ltm_layers: str = field(
        default="all", metadata={"help": "layers of the encoder with a memory: all, or numbers from 0, e.g. 2,3"}
    )
    encoder_input: ChoiceEnum(["segments", "past", "all"]) = field(
        default="segments",
        metadata={
            "help": "what a state of the encoder sees: segments, its own with some context, and the memory; past, all "
            "speech before it; or all speech"
        },
    )
    segment_size: int = field(default=64, metadata={"help": "frames per segment, a multiple of 4"})
    left_context: int = field(default=32, metadata={"help": "frames before a segment that are read with it"})
    right_context: int = field(default=32, metadata={"help": "frames after a segment that are read with it"})
    wait_k: str = field(
        default=ALL,
        metadata={
            "help": "k, reads before the first word; of several, e.g. 1,3,5,inf, training draws one per batch, and the "
            "last one is that of validation and of beam search; inf waits for all"
        },
    )
    pre_decision: int = field(default=8, metadata={"help": "r, states of the encoder per read, of 4 frames each"})
    decoder_embed_dim: int = field(default=256, metadata={"help": "width of the hidden states"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "width of the feed-forward networks"})
    decoder_attention_heads: int = field(default=4, metadata={"help": "number of attention heads"})
    encoder_layers: int = field(default=12, metadata={"help": "number of layers of the encoder"})
    decoder_layers: int = field(default=6, metadata={"help": "number of layers of the decoder"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on embeddings and sublayer outputs"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the feed-forward networks"})


class TranslationEncoder(FairseqEncoder):
    """An encoder of speech as fairseq uses one."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(None)
        self.speech = encoder

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, **unused: object) -> Encoded:
        """The states of frames ``src_tokens`` (B, L, features), of which ``src_lengths`` (B,) are speech."""
        return self.speech(src_tokens, src_lengths.cpu())

    def reorder_encoder_out(self, encoder_out: Encoded, new_order: Tensor) -> Encoded:
        """The states of the rows ``new_order``."""
        lengths = encoder_out.lengths.index_select(0, new_order.cpu())
        return Encoded(encoder_out.states.index_select(0, new_order), lengths)

    def max_positions(self) -> int:
        """The longest possible speech, in frames: of any length."""
        return torch.iinfo(torch.int32).max


@register_model(MODEL, dataclass=StreamingTranslationConfig)
class StreamingTranslation(FairseqEncoderDecoderModel):
    """Speech translation while it is spoken (Ma, Wang, Dousti, Koehn and Pino 2021)."""

    def __init__(self, encoder: TranslationEncoder, decoder: WaitKDecoder, waits: list[Optional[int]]) -> None:
        super().__init__(encoder, decoder)
        self.waits = waits

    @classmethod
    def build_model(cls, cfg: StreamingTranslationConfig, task: Any) -> "StreamingTranslation":
        """Build the model for the features and the target dictionary of ``task``; InputError names a wrong setting."""
        cfg = with_defaults(cfg, StreamingTranslationConfig)
        return cls.build(cfg, task.target_dictionary, task.data_cfg.input_feat_per_channel)

    @classmethod
    def build(cls, cfg: StreamingTranslationConfig, dictionary: Dictionary, features: int) -> "StreamingTranslation":
        """Build the model for frames of this many features; InputError names a wrong setting."""
        check_sizes(cfg, StreamingTranslationConfig)
        waits = read_waits(cfg.wait_k)
        try:
            for k in waits:
                check_policy(k, cfg.pre_decision)
            encoder = build_encoder(cfg, features)
        except SettingError as error:
            raise InputError(f"{option(error.setting)} {error.problem}") from error
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error)) from error
        decoder = WaitKDecoder(
            dictionary,
            cfg.decoder_embed_dim,
            [MemformerDecoderLayer(*_sizes(cfg), **_dropouts(cfg)) for _ in range(cfg.decoder_layers)],
            dropout=cfg.dropout,
            pre_decision=cfg.pre_decision,
            wait_k=waits[-1],
        )
        return cls(TranslationEncoder(encoder), decoder, waits)

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, **unused: object
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits (B, T, V) of the target; in training, k is drawn for the batch.

        Beside them, ``regulariser`` () is what the memories add to the loss of a word, if they do.

        Args:
            src_tokens: frames (B, L, features). src_lengths: (B,), of speech. prev_output_tokens: (B, T).
        """
        k = self.waits[int(torch.randint(len(self.waits), ()))] if self.training else self.waits[-1]
        encoded = self.encoder(src_tokens, src_lengths)
        visible = self.decoder.policy(encoded, prev_output_tokens, k)
        logits, extra = self.decoder(prev_output_tokens, encoded, visible)
        if encoded.regulariser is not None:
            extra["regulariser"] = encoded.regulariser / max(1, encoded.queries)
        return logits, extra


def build_encoder(cfg: StreamingTranslationConfig, features: int) -> nn.Module:
    """The encoder that ``cfg`` describes."""
    sizes, layers = (features, *_sizes(cfg)), cfg.encoder_layers
    if (seen := str(cfg.encoder_input)) != "segments":
        return WholeEncoder(*sizes, layers, unidirectional=seen == "past", **_dropouts(cfg))
    with_memory = layers_with_memory(cfg, layers)

    def build_memory(layer: int) -> Optional[LongTermMemory]:
        return build_long_term_memory(cfg, layer) if layer in with_memory else None

    return StreamingEncoder(
        *sizes,
        layers,
        segment_size=cfg.segment_size,
        left_context=cfg.left_context,
        right_context=cfg.right_context,
        build_memory=build_memory,
        **_dropouts(cfg),
    )


def read_waits(text: str) -> list[Optional[int]]:
    """Each k of ``--wait-k``, None for all reads; InputError if one is no number."""
    words = text.split(",")
    if not all(word == ALL or word.isdecimal() for word in words):
        raise InputError(f"--wait-k must be whole numbers or {ALL}, separated by commas, got {text!r}")
    return [None if word == ALL else int(word) for word in words]


def _sizes(cfg: StreamingTranslationConfig) -> tuple[int, int, int]:
    return cfg.decoder_embed_dim, cfg.decoder_attention_heads, cfg.decoder_ffn_embed_dim


def _dropouts(cfg: StreamingTranslationConfig) -> dict[str, float]:
    return {name: getattr(cfg, name) for name in ("dropout", "attention_dropout", "activation_dropout")}


@register_model_architecture(MODEL, "unidirectional_translation")
def unidirectional_translation(args: Any) -> None:
    """The paper's baseline: each state sees all speech before it."""
    set_defaults(args, encoder_input="past")


@register_model_architecture(MODEL, "full_attention_translation")
def full_attention_translation(args: Any) -> None:
    """Each state sees all speech, before and after it: for translation once all is spoken."""
    set_defaults(args, encoder_input="all")


@register_model_architecture(MODEL, "streaming_translation_tiny")
def streaming_translation_tiny(args: Any) -> None:
    """Two and one layers that train in minutes on two CPU cores."""
    set_defaults(
        args,
        decoder_embed_dim=64,
        decoder_ffn_embed_dim=128,
        decoder_attention_heads=4,
        encoder_layers=2,
        decoder_layers=1,
    )
