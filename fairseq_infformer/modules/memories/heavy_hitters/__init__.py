"""A memory that keeps, as they are, the vectors that attention looked at most (Zhang et al. 2023)."""

from .memory import HeavyHitterMemory, HeavyHitterSettings, HeavyHitterState, Received

__all__ = ["HeavyHitterMemory", "HeavyHitterSettings", "HeavyHitterState", "Received"]
