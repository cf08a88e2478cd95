"""Memformer's memory (Wu et al. 2022): slots that are read and written by attention, and forget."""

from .memory import SlotMemory, SlotSettings
from .reader import SlotReader
from .state import SlotState
from .writer import SlotWriter

__all__ = ["SlotMemory", "SlotReader", "SlotSettings", "SlotState", "SlotWriter"]
