"""Long-term memories: each in a folder that brings all it needs."""

from .base import LongTermMemory

__all__ = ["LongTermMemory"]
