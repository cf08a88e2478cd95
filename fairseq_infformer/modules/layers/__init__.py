"""Layers of the models."""

from .decoder_layer import ACTIVATIONS, InfiniteFormerLayer, LayerState, attention_mask
from .memformer import MemformerDecoderLayer, MemformerEncoderLayer

__all__ = [
    "ACTIVATIONS",
    "InfiniteFormerLayer",
    "LayerState",
    "MemformerDecoderLayer",
    "MemformerEncoderLayer",
    "attention_mask",
]
