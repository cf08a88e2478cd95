"""The memory and its parts, in plain PyTorch: nothing here imports fairseq."""

from .memories import LongTermMemory
from .memories.compressive import COMPRESSIONS, CompressiveMemory, CompressiveState
from .memories.continuous import (
    DENSITIES,
    ContinuousAttention,
    ContinuousLongTermMemory,
    ContinuousMemory,
    ContinuousState,
    GaussianBasis,
    GibbsAttention,
    register_density,
)

__all__ = [
    "COMPRESSIONS",
    "DENSITIES",
    "CompressiveMemory",
    "CompressiveState",
    "ContinuousAttention",
    "ContinuousLongTermMemory",
    "ContinuousMemory",
    "ContinuousState",
    "GaussianBasis",
    "GibbsAttention",
    "LongTermMemory",
    "register_density",
]
