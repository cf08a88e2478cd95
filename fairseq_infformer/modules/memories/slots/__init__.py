"""Memformer's memory (Wu et al. 2022): slots that are read and written by attention, and forget."""

from .memory import SlotMemory, SlotSettings, SlotState

__all__ = ["SlotMemory", "SlotSettings", "SlotState"]
