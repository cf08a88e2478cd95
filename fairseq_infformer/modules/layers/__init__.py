"""Layers of the decoder."""

from .decoder_layer import ACTIVATIONS, InfiniteFormerLayer, LayerState, attention_mask

__all__ = ["ACTIVATIONS", "InfiniteFormerLayer", "LayerState", "attention_mask"]
