"""How much of what a longer window would give a memory gives: its share of the headroom.

Headroom is what the model with a short window loses against the one with a long window, in log perplexity per token,
and a memory's share of it is

    (short − with memory) / (short − long)

so 0 is no better than the short window, 1 as good as the long one. Results that have headroom say under this name

    {"corpus": what was scored, "split": its split, "short": …, "memories": […], "long": …, "by": …}

where short, memories and long are names in the field "memory" of their runs, and "by" is a field, such as "segment", in
which runs that are compared must agree; a run where it is null is compared with all.
"""

import math
from typing import NamedTuple, Optional

from recipes import runs
from recipes.runs import Record


class Headroom(NamedTuple):
    """A memory between its two ends; losses are log perplexities per token, by seed.

    Times are those of the memory's runs over those of the short window's, means over seeds. They are of use where both
    ran with the same beside them.
    """

    memory: str
    group: object  # the value of the field "by"
    short: dict[int, float]
    losses: dict[int, float]
    long: dict[int, float]
    zeroed: dict[int, float]
    swapped: dict[int, float]
    update_time: float  # of an update of the training
    token_time: float  # of scoring a token

    @property
    def share(self) -> Optional[list[float]]:
        """Of each seed that both ends have; of a single seed of short or long, all share it. None where there is no
        headroom, or no seed."""
        short, long = (
            dict.fromkeys(self.losses, *ends.values()) if len(ends) == 1 else ends for ends in (self.short, self.long)
        )
        seeds = self.losses.keys() & short.keys() & long.keys()
        if not seeds or any(short[seed] <= long[seed] for seed in seeds):
            return None
        return [(short[seed] - self.losses[seed]) / (short[seed] - long[seed]) for seed in sorted(seeds)]

    def worse_by(self, losses: dict[int, float]) -> list[float]:
        """By how much perplexities are above those of the memory as it is, in percent, by the seeds that both have."""
        return [100 * math.expm1(losses[seed] - own) for seed, own in self.losses.items() if seed in losses]


def loss(score: Record) -> float:
    """The log perplexity per token of what ``infformer-eval`` has found."""
    return score["nll"] / score["tokens"]


def of(results: Record) -> list[Headroom]:
    """Every memory whose ends were scored too; none, if the results have no headroom."""
    settings = results.get("headroom")
    if settings is None:
        return []
    split, by = settings["split"], settings.get("by")

    def scored(name: str, group: object) -> list[Record]:
        found = [run for run in results["runs"] if run["memory"] == name and run.get(by) in (group, None)]
        return sorted(found, key=lambda run: run["seed"])

    def losses(name: str, group: object, part: str = split) -> dict[int, float]:
        scores = {run["seed"]: run.get(part) for run in scored(name, group)}
        # infformer-eval gives null for a loss that is infinite.
        return {seed: loss(score) for seed, score in scores.items() if score and score["nll"] is not None}

    memories = []
    for group in dict.fromkeys(run.get(by) for run in results["runs"]):
        for memory in settings["memories"]:
            short, own, long = (losses(name, group) for name in (settings["short"], memory, settings["long"]))
            if short and own and long:
                ablated = (losses(memory, group, part) for part in ("zero", "swap"))
                both = [[run for run in scored(name, group) if run.get(split)] for name in (memory, settings["short"])]
                times = (
                    ratio(*([run["seconds"] / run["updates"] for run in each] for each in both)),
                    ratio(*([run[split]["seconds"] / run[split]["tokens"] for run in each] for each in both)),
                )
                memories.append(Headroom(memory, group, short, own, long, *ablated, *times))
    return memories


def ratio(values: list[float], base: list[float]) -> float:
    """Of two means; not a number where the second is 0."""
    return runs.mean(values) / runs.mean(base) if runs.mean(base) else math.nan


COLUMNS = ("share", "swapped, worse by", "zeroed, worse by", "time per update", "time per token")


def cells(one: Headroom) -> list[str]:
    """A memory's ``COLUMNS`` in a table: percent, and times as multiples of the short window's."""
    share = one.share and [100 * share for share in one.share]
    figures = (share, one.worse_by(one.swapped), one.worse_by(one.zeroed))
    times = (f"{time:.2f}" if math.isfinite(time) else "" for time in (one.update_time, one.token_time))
    return [*(f"{runs.spread(values)} %" if values else "" for values in figures), *times]


def table(logs: dict[str, Record]) -> str:
    """One row per corpus and memory of all results that have headroom; ``logs`` by name."""
    rows = []
    for name, results in logs.items():
        for one in of(results):
            settings = results["headroom"]
            group = f", {settings['by']} {one.group}" if one.group is not None else ""
            perplexities = [
                runs.spread([math.exp(loss) for loss in losses.values()], 2)
                for losses in (one.short, one.losses, one.long)
            ]
            row = [f"{settings['corpus']}{group}", one.memory, str(len(one.losses)), *perplexities, *cells(one)]
            rows.append([*row, f"[{name}](results/{name}.json)"])
    return runs.markdown(
        ["corpus", "memory", "seeds", "short window", "with memory", "long window", *COLUMNS, "log"], rows
    )
