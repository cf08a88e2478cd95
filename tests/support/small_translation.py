"""A model of speech translation small enough to run hundreds of times."""

import torch
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_infformer.models.streaming_translation import StreamingTranslation, StreamingTranslationConfig

FEATURES, WORDS, FRAMES, R, STRIDE = 5, 12, 48, 2, 4


def dictionary() -> Dictionary:
    words = Dictionary()
    for number in range(WORDS - len(words)):
        words.add_symbol(f"w{number}")
    return words


def build(**settings) -> StreamingTranslation:
    torch.manual_seed(0)
    small = {
        "decoder_embed_dim": 16,
        "decoder_ffn_embed_dim": 32,
        "decoder_attention_heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.0,
        "segment_size": 16,
        "left_context": 8,
        "right_context": 8,
        "bank_length": 2,
        "pre_decision": R,
    }
    return StreamingTranslation.build(StreamingTranslationConfig(**(small | settings)), dictionary(), FEATURES).eval()


def speech(rows: int, frames: int = FRAMES) -> Tensor:
    return torch.randn(rows, frames, FEATURES, generator=torch.Generator().manual_seed(1))


def target(rows: int, length: int) -> Tensor:
    return torch.randint(4, WORDS, (rows, length), generator=torch.Generator().manual_seed(2))
