"""Every memory of the project, and the example's, under the contract."""

import importlib.util
import sys

import pytest
import torch
from command_line import ROOT
from memory_contract import DIM, HEADS, MemoryContract

from fairseq_infformer.modules.memories import MEMORIES, LongTermMemory
from fairseq_infformer.modules.memories.compressive import COMPRESSIONS
from fairseq_infformer.modules.memories.continuous import ADDRESSINGS, CONTRACTIONS, DENSITIES, SAMPLINGS


def build(name: str, **settings: object) -> LongTermMemory:
    registered = MEMORIES[name]
    memory = registered.memory.build(registered.settings(**settings), DIM, HEADS, layer=0)
    with torch.no_grad():  # what starts at zero
        for parameter in memory.parameters():
            if parameter.dim() == 2 and not parameter.any():
                torch.nn.init.xavier_uniform_(parameter)
    return memory


SMALL = {"basis": 8, "widths": (0.1, 0.2), "samples": 16}
# Each contraction, sampling, density and addressing once, not their product.
CONTINUOUS = [
    *({"contraction": name} for name in CONTRACTIONS),
    *({"sampling": name} for name in SAMPLINGS),
    *({"density": name} for name in DENSITIES),
    *({"addressing": name} for name in ADDRESSINGS),
    {"horizon": 8},
    {"density": "gibbs"},
    {"density": "gibbs", "sampling": "sticky"},
]


@pytest.mark.parametrize("settings", CONTINUOUS)
class TestContinuous(MemoryContract):
    @pytest.fixture(autouse=True)
    def take(self, settings):
        self.settings = settings

    def make(self) -> LongTermMemory:
        return build("continuous", **SMALL, **self.settings)


@pytest.mark.parametrize("function", COMPRESSIONS)
class TestCompressive(MemoryContract):
    @pytest.fixture(autouse=True)
    def take(self, function):
        self.function = function

    def make(self) -> LongTermMemory:
        return build("compressive", length=6, rate=3, function=self.function)


class TestSlots(MemoryContract):
    def make(self) -> LongTermMemory:
        return build("slots", count=3)


class TestBank(MemoryContract):
    def make(self) -> LongTermMemory:
        return build("bank", length=3)


class TestHeavyHitters(MemoryContract):
    def make(self) -> LongTermMemory:
        return build("heavy-hitters", length=14, half_life=8)


class TestYourOwn(MemoryContract):
    def make(self) -> LongTermMemory:
        spec = importlib.util.spec_from_file_location("mine", ROOT / "examples/your_own_memory/__init__.py")
        sys.modules["mine"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        memory = build("mean", scale=2.0)
        del MEMORIES["mean"]  # commands that are forked from this process register it themselves
        return memory
