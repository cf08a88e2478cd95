"""An output layer that also points at words that the text had before, with a memory of them of fixed size."""

from .pointer import Pointer, PointerState

__all__ = ["Pointer", "PointerState"]
