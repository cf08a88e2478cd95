"""The operations among which an architecture search chooses, each on a sequence of vectors.

``base.py`` has what all share and ``register_operation``, with which a search knows a new one by its name. Every one
works in both directions, or is causal with a cache, so that it decodes vector by vector what it would give for all at
once.
"""

from .attention import SourceAttention, TextAttention
from .base import (
    OPERATIONS,
    Cache,
    Operation,
    Sizes,
    Surroundings,
    build_operation,
    find_operation,
    register_operation,
    reordered_cache,
)
from .continuous import ContinuousSourceAttention
from .convolution import Convolution, DynamicConvolution
from .node import Node
from .pointwise import FeedForward, GatedLinearUnit, Identity, Zero

# Those of DARTSformer (Zhao et al. 2021): of an encoder, and with the last also of a decoder.
ENCODER_OPERATIONS = (
    *(f"convolution-{width}" for width in (3, 5, 7, 11)),
    *(f"dynamic-convolution-{width}" for width in (3, 7, 11, 15)),
    "self-attention",
    "gated-linear-unit",
    "feed-forward",
    "zero",
    "identity",
)
DECODER_OPERATIONS = (*ENCODER_OPERATIONS, "cross-attention")

__all__ = [
    "DECODER_OPERATIONS",
    "ENCODER_OPERATIONS",
    "OPERATIONS",
    "Cache",
    "ContinuousSourceAttention",
    "Convolution",
    "DynamicConvolution",
    "FeedForward",
    "GatedLinearUnit",
    "Identity",
    "Node",
    "Operation",
    "Sizes",
    "SourceAttention",
    "Surroundings",
    "TextAttention",
    "Zero",
    "build_operation",
    "find_operation",
    "register_operation",
    "reordered_cache",
]
