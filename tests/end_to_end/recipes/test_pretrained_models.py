"""The recipe of pretrained models in small, as a user runs it."""

import json
import random

import pytest
from command_line import ROOT, as_flags, run

from recipes import headroom


@pytest.mark.slow
def test_pretrained_recipe_compares_a_memory_with_a_short_and_a_long_window(tmp_path):
    draw = random.Random(1)
    for split in ("train", "valid", "test"):
        (tmp_path / "raw" / split).mkdir(parents=True)
        for book in range(2):
            words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(20)]
            text = "\n".join(" ".join(draw.choices(words, k=8)) for _ in range(40))
            (tmp_path / "raw" / split / f"{book}.txt").write_text(text + "\n")
    options = as_flags(
        stage=1, raw=tmp_path / "raw", dir=tmp_path / "run", memory="finetuned,gibbs-bptt,ceiling", splits="test"
    )
    done = run(ROOT / "recipes/pretrained/run.sh", "--tiny", *options, timeout=900)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["command"] == (
        "recipes/pretrained/run.sh --size tiny --raw DIR --splits test --segment 16 "
        "--memory finetuned,gibbs-bptt,ceiling --seeds 1"
    )
    finetuned, memory, _ = results["runs"]
    assert [run["segment"] for run in results["runs"]] == [16, 16, None]
    assert {run["updates"] for run in results["runs"]} == {10} and memory["parameters"] > finetuned["parameters"]
    # Two documents of 128 tokens each; of the streams a window of 16 and a segment, or of 48 and a segment, are kept.
    assert {run["test"]["tokens"] for run in results["runs"]} == {256}
    states = [run["test"]["state_bytes"] for run in results["runs"]]
    assert states[0] < states[1] and states[0] < states[2]
    assert memory["zero"]["nll"] != memory["test"]["nll"] != memory["swap"]["nll"] and finetuned["zero"] is None
    by_position = finetuned["by_position"]
    assert by_position["bounds"] == [0, 16, 32, 64, 128]
    (one,) = headroom.of(results)
    assert (one.memory, one.group) == ("gibbs-bptt", 16)
    (row,) = [line for line in done.stdout.splitlines() if "| gibbs-bptt " in line]
    assert [cell.strip() for cell in row.split("|")][-1 - len(headroom.COLUMNS) : -1] == headroom.cells(one)
    assert (tmp_path / "run/by-position.png").is_file()
