"""The memories that recipes compare, in one table. A row is all that another registered memory needs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Memory(NamedTuple):
    """A memory as recipes, tables and plots know it."""

    name: str  # in --memory, in the folders of runs and in results
    label: str  # in plots
    color: str
    line: str  # matplotlib's style of a line
    options: dict[str, str]  # of fairseq-train, without their dashes

    @property
    def arguments(self) -> list[str]:
        """Arguments of fairseq-train."""
        return [word for option, value in self.options.items() for word in (f"--{option}", value)]

    @property
    def is_none(self) -> bool:
        """Whether it is no long-term memory at all."""
        return self.options.get("long-term-memory") == "none" and "pointer-length" not in self.options

    @property
    def bptt_segments(self) -> int:
        """Through how many segments gradients go."""
        return int(self.options.get("bptt-segments", 1))

    @property
    def segments(self) -> int:
        """How many of each stream an update takes."""
        return int(self.options.get("update-freq", 1)) * self.bptt_segments

    def with_segments(self, option: str, count: int) -> "Memory":
        """The memory trained with ``count`` segments per update: --bptt-segments, or --update-freq, which has as many
        and no gradients from one to another."""
        suffix, label, line = {
            "update-freq": ("freq", f"{count} segments per update", ":"),
            "bptt-segments": ("bptt", f"gradients through {count} segments", "--"),
        }[option]
        options = self.options | {option: str(count)}
        return self._replace(
            name=f"{self.name}-{suffix}{count}", label=f"{self.label}, {label}", line=line, options=options
        )


def _continuous(contraction: str, sampling: str, addressing: str = "projection") -> dict[str, str]:
    return {
        "long-term-memory": "continuous",
        "ltm-addressing": addressing,
        "ltm-contraction": contraction,
        "ltm-sampling": sampling,
    }


def _gibbs(contraction: str) -> dict[str, str]:
    return {
        "long-term-memory": "continuous",
        "ltm-density": "gibbs",
        "ltm-contraction": contraction,
        "ltm-sampling": "uniform",
    }


SHORT, LONG = "none", "none-1024"  # without long-term memory
# `fixed` is the paper's contraction, `log` the logarithmic one; the others keep an equal share for every token. Of
# `mixed` half of the heads are addressed by content, `gibbs` reads by softmax attention over the signal.
TABLE = (
    Memory(SHORT, "Transformer-XL", "#6b7280", "-", {"long-term-memory": "none"}),
    Memory("compressive", "Compressive Transformer", "#d97706", "-", {"long-term-memory": "compressive"}),
    Memory("continuous", "∞-former", "#1d4ed8", "-", _continuous("proportional", "uniform")),
    Memory("continuous-fixed", "∞-former, fixed τ", "#1d4ed8", "--", _continuous("fixed", "uniform")),
    Memory("sticky", "∞-former, sticky", "#059669", "-", _continuous("proportional", "sticky")),
    Memory("sticky-fixed", "∞-former, sticky, fixed τ", "#059669", "--", _continuous("fixed", "sticky")),
    Memory("mixed", "∞-former, half by content", "#be185d", "-", _continuous("proportional", "uniform", "mixed")),
    Memory("gibbs", "∞-former, Gibbs read", "#7c3aed", "-", _gibbs("proportional")),
    Memory("gibbs-log", "∞-former, Gibbs read, logarithmic", "#65a30d", "-", _gibbs("logarithmic")),
    Memory("heavy-hitters", "heavy hitters", "#b45309", "-", {"long-term-memory": "heavy-hitters"}),
    Memory("slots", "Memformer's slots", "#0891b2", "-", {"long-term-memory": "slots"}),
)
# Recipes take these where they are asked for. `memformer` is a model of its own, see recipes/memformer/model.py;
# `none-1024` is what a memory can hope to come up to; `pointer` keeps as much as 256 / l vectors in each of l layers.
MORE = (
    Memory(LONG, "Transformer-XL, 1,024 tokens", "#111827", "--", {"long-term-memory": "none", "stm-length": "1024"}),
    Memory("pointer", "pointer", "#9333ea", "-", {"long-term-memory": "none", "pointer-length": "256"}),
    Memory("slots1", "a single slot", "#0891b2", "-.", {"long-term-memory": "slots", "slots-count": "1"}),
    Memory("memformer", "Memformer", "#b91c1c", "-", {"arch": "memformer_lm"}),
)
# Some of them trained otherwise, for recipes whose trainings count their updates in segments.
SEVERAL_SEGMENTS = tuple(
    memory.with_segments(option, 8)
    for memory in (*TABLE, *MORE)
    if memory.name in ("none", "compressive", "gibbs", "gibbs-log", "slots", "slots1", "memformer")
    for option in ("update-freq", "bptt-segments")
)
MEMORIES = {memory.name: memory for memory in (*TABLE, *MORE, *SEVERAL_SEGMENTS)}

# How the options of a memory begin, but for those that count for every memory.
PREFIXES = {
    "continuous": "--ltm-",
    "compressive": "--compressive-",
    "bank": "--bank-",
    "heavy-hitters": "--hitters-",
    "slots": "--slots-",
}
OF_EVERY_MEMORY = ("--ltm-layers", "--ltm-lr-scale", "--ltm-ablation")


def effective(words: Sequence[str]) -> list[str]:
    """Arguments of fairseq-train but for the options of other memories than the one that they choose."""
    memory = dict(pairwise(words)).get("--long-term-memory")
    if memory is None:
        return list(words)
    others = tuple(prefix for name, prefix in PREFIXES.items() if name != memory)
    kept, option_left_out = [], False
    for word in words:
        if word.startswith("--"):
            option_left_out = word.startswith(others) and not word.startswith(OF_EVERY_MEMORY)
        if not option_left_out:
            kept.append(word)
    return kept
