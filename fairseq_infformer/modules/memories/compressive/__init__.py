"""The Compressive Transformer's memory (Rae et al. 2020)."""

from .memory import COMPRESSIONS, CompressiveMemory, CompressiveState

__all__ = ["COMPRESSIONS", "CompressiveMemory", "CompressiveState"]
