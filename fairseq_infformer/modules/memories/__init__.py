"""Long-term memories: each in a folder that brings all it needs, and registers itself."""

import importlib
import pkgutil

from fairseq_infformer.modules.settings import SettingError

from .ablation import ABLATIONS, Readable, ablate
from .base import LISTENERS, MEMORIES, Figure, LongTermMemory, Read, Report, register_memory

# Each folder in this one is a memory: importing it registers it.
for _module in pkgutil.iter_modules(__path__):
    if _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ABLATIONS",
    "LISTENERS",
    "MEMORIES",
    "Figure",
    "LongTermMemory",
    "Read",
    "Readable",
    "Report",
    "SettingError",
    "ablate",
    "register_memory",
]
