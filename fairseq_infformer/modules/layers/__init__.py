"""Layers of the models."""

from .augmented_memory import AugmentedMemoryLayer
from .decoder_layer import ACTIVATIONS, InfiniteFormerLayer, LayerState, attention_mask
from .memformer import MemformerDecoderLayer, MemformerEncoderLayer

__all__ = [
    "ACTIVATIONS",
    "AugmentedMemoryLayer",
    "InfiniteFormerLayer",
    "LayerState",
    "MemformerDecoderLayer",
    "MemformerEncoderLayer",
    "attention_mask",
]
