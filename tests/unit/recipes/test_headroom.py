"""The share of headroom is the same computation for every experiment, and RESULTS.md has one table of all."""

import math

import pytest

from recipes import headroom


def run(memory, loss, seed=1, segment=None, seconds=10.0, **ablated):
    def score(loss):
        return {"nll": 1000 * loss, "tokens": 1000, "seconds": 2 * seconds}

    parts = {name: score(value) for name, value in ablated.items()}
    trained = {"memory": memory, "seed": seed, "segment": segment, "updates": 5, "seconds": seconds}
    return trained | {"test": score(loss)} | parts


def results(*runs, **more):
    ends = {"corpus": "plays", "split": "test", "short": "a", "memories": ["b"], "long": "c"}
    return {"headroom": ends | more, "runs": list(runs)}


def test_share_is_of_the_difference_in_log_perplexity():
    (one,) = headroom.of(results(run("a", 4.0), run("b", 3.9, seconds=12.0, zero=3.95, swap=4.1), run("c", 3.6)))
    assert one.share == pytest.approx([0.25])
    assert one.worse_by(one.swapped) == pytest.approx([100 * (math.exp(0.2) - 1)])
    assert headroom.cells(one) == ["25.0 %", "22.1 %", "5.1 %", "1.20", "1.20"]


def test_share_is_of_each_seed_with_its_own_ends_and_of_each_group():
    """One long run, without a group, is compared with all."""
    found = headroom.of(
        results(
            *(run("a", 4.0 + 0.1 * seed, seed, 128) for seed in (1, 2)),
            *(run("b", 4.0, seed, 128) for seed in (1, 2)),
            run("a", 3.9, 1, 256),
            run("b", 3.8, 1, 256),
            run("c", 3.6),
            by="segment",
        )
    )
    assert [(one.group, one.memory) for one in found] == [(128, "b"), (256, "b")]
    assert found[0].share == pytest.approx([0.1 / 0.5, 0.2 / 0.6]) and found[1].share == pytest.approx([1 / 3])


def test_seeds_are_compared_with_themselves_and_a_diverged_one_with_none():
    runs = [run("a", 4.0 + seed, seed) for seed in (1, 2)]
    runs += [run("b", 3.9 + seed, seed, **({"swap": 4.0 + seed} if seed == 2 else {})) for seed in (1, 2, 3)]
    runs += [run("c", 3.0 + seed, seed) for seed in (1, 2)]
    runs[2]["test"]["nll"] = None  # it diverged
    (one,) = headroom.of(results(*runs))
    assert one.share == pytest.approx([0.1]) and sorted(one.losses) == [2, 3]
    assert one.worse_by(one.swapped) == pytest.approx([100 * math.expm1(0.1)])


def test_memory_without_both_ends_has_no_share():
    assert headroom.of(results(run("a", 4.0), run("b", 3.9))) == [] == headroom.of({"runs": [run("b", 1.0)]})
    (none,) = headroom.of(results(run("a", 4.0), run("b", 3.9), run("c", 4.0)))
    assert none.share is None and headroom.cells(none)[0] == ""


def test_table_has_a_row_per_corpus_and_memory():
    log = results(run("a", 4.0, segment=128), run("b", 3.9, segment=128), run("c", 3.6), by="segment")
    lines = headroom.table({"plays-small": log, "other": {"runs": []}}).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0][:2] == ["corpus", "memory"] and cells[0][6] == "share" and len(cells) == 3
    perplexities = [f"{math.exp(loss):.2f}" for loss in (4.0, 3.9, 3.6)]
    assert cells[2][:7] == ["plays, segment 128", "b", "1", *perplexities, "25.0 %"]
