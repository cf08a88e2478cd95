"""The augmented memory (Wu et al. 2020): a bank of vectors, each a summary of a segment."""

from .memory import BankMemory, BankSettings, BankState

__all__ = ["BankMemory", "BankSettings", "BankState"]
