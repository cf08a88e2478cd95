"""Long-term memories: each in a folder that brings all it needs, and registers itself."""

from fairseq_infformer.modules.settings import SettingError

from .ablation import ABLATIONS, ablate
from .base import LISTENERS, MEMORIES, Figure, LongTermMemory, Read, Report, register_memory
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
