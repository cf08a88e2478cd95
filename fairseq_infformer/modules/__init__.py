"""The memory and its parts, in plain PyTorch: nothing here imports fairseq."""

from .basis import GaussianBasis
from .compressive_memory import COMPRESSIONS, CompressiveMemory, CompressiveState
from .continuous_attention import ContinuousAttention
from .continuous_memory import ContinuousLongTermMemory, ContinuousMemory, ContinuousState
from .density import DENSITIES, register_density
from .memory import LongTermMemory

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
    "LongTermMemory",
    "register_density",
]
