"""Ordinary attention over the segment and what comes just before it, by its encoding of positions."""

from .alibi import AlibiAttention
from .base import Attention, check_heads, split_heads
from .cross import CrossAttention
from .plain import PlainAttention
from .relative import RelativeAttention
from .rotary import RotaryAttention
from .simplified import SimplifiedRelativeAttention
from .suppressed import SuppressedAttention
from .suppression import SUPPRESSION, suppressed_weights

POSITION_ENCODINGS: dict[str, type[Attention]] = {
    "xl": RelativeAttention,
    "rope": RotaryAttention,
    "alibi": AlibiAttention,
    "learned": PlainAttention,  # whoever embeds the tokens adds their positions
}

__all__ = [
    "POSITION_ENCODINGS",
    "SUPPRESSION",
    "AlibiAttention",
    "Attention",
    "CrossAttention",
    "PlainAttention",
    "RelativeAttention",
    "RotaryAttention",
    "SimplifiedRelativeAttention",
    "SuppressedAttention",
    "check_heads",
    "split_heads",
    "suppressed_weights",
]
