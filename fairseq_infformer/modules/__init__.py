"""Long-term memories, attention and layers in plain PyTorch: nothing in this folder imports fairseq."""

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
