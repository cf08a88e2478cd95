"""Long-term memories: each in a folder that brings all it needs, and registers itself."""

from .ablation import ABLATIONS, ablate
from .base import LISTENERS, MEMORIES, Figure, LongTermMemory, Read, Report, SettingError, register_memory
from .compressive import CompressiveMemory
from .continuous import ContinuousLongTermMemory

__all__ = [
    "ABLATIONS",
    "LISTENERS",
    "MEMORIES",
    "CompressiveMemory",
    "ContinuousLongTermMemory",
    "Figure",
    "LongTermMemory",
    "Read",
    "Report",
    "SettingError",
    "ablate",
    "register_memory",
]
