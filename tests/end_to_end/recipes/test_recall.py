"""The needle test's recipe: its summary, and the recipe in small, as a user runs it."""

import json
import shutil
import sys

import numpy as np
import pytest
from command_line import ROOT, run, run_forked

from recipes import launches
from recipes.recall import ceiling, summary

TRAIN_LOG = """| num. shared model params: 1,234 (num. trained: 1,234)
2026-01-01 | INFO | train_inner | {"epoch": 1, "nll_loss": "2.5", "num_updates": "10", "wall": "60"}
"""


def test_distances_are_counted_from_the_value_stated_last():
    fact, ask, answer, end, key, value = 1, 2, 3, 4, 10, 20
    first = [fact, key, value, fact, key + 1, value, 0, 0, ask, key, answer, value, end]
    second = [fact, key, value, 0, ask, key, answer, value, end]
    tokens = np.array(first + second)
    assert summary.distances_of(tokens, fact, np.array([11, 20])).tolist() == [11 - 2, 20 - 15]
    assert summary.distances_of(tokens, fact, np.array([20])).tolist() == [20 - 15]


def test_guess_from_the_values_alone_is_the_commonest():
    assert summary.best_guess(facts=1, values=5) == 1
    assert summary.best_guess(facts=2, values=2) == pytest.approx(0.75, abs=0.01)  # alike in half of the documents


def made_of(folder):
    return ["--raw", folder / "raw", "--data", folder / "data"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory as run.sh leaves it, with answers that are right up to a distance of each run's own."""
    folder = tmp_path_factory.mktemp("recall")
    generate = ["--facts", 3, "--values", 4, "--documents", 9, "--reach", 60, "--distances", "30,60,90"]
    run_forked("preprocess.generate_recall", "--dest", folder / "raw", *generate)
    prepare = ["--raw", folder / "raw", "--dest", folder / "data", "--level", "word", "--documents", "blank-line"]
    run_forked("infformer-prepare", *prepare)
    words = [line.split()[0] for line in (folder / "data/dict.txt").read_text().splitlines()]
    number = {word: 4 + place for place, word in enumerate(words)}
    for name, reach in (("none-seed1", 0), ("continuous-seed1", 90), ("continuous-seed2", 60)):
        (folder / name).mkdir()
        for split in ("valid", "test"):
            tokens = np.fromfile(folder / f"data/{split}.bin", dtype=np.uint16).astype(int)
            places = np.flatnonzero(tokens == number["<answer>"]) + 1
            target = tokens[places]
            predicted = np.where(summary.distances_of(tokens, number["<fact>"], places) < reach, target, 0)
            np.savez(folder / name / f"{split}.npz", offset=places, target=target, predicted=predicted)
            (folder / name / f"{split}.json").write_text(json.dumps({"tokens": len(places)}))
        (folder / name / "train.log").write_text(TRAIN_LOG)
        launches.note(folder / name, ["fairseq-train"])
    return folder


def test_summary_shows_accuracy_by_distance_and_its_spread_over_seeds(runs):
    done = run_forked("recipes.recall.summary", runs, *made_of(runs), "--context", 40)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    rows = {row[0]: row[5:] for row in rows if row}
    assert rows["memory"] == ["30", "60", "90"]
    assert rows["none"] == ["0.0", "0.0", "0.0"]
    assert rows["continuous"] == ["100.0 ± 0.0", "50.0 ± 70.7", "0.0 ± 0.0"]
    found = json.loads((runs / "results.json").read_text())
    first = found["runs"][0]
    assert (first["memory"], first["seed"]) == ("continuous", 1)
    asked, right = first["test"]["asked"], first["test"]["right"]
    assert right == [*asked[:2], 0] and len(set(asked)) == 1
    assert found["levels"]["chance"] == 0.25


def test_tuning_reads_no_test_split(runs, tmp_path):
    shutil.copytree(runs / "continuous-seed1", tmp_path / "continuous-seed1")
    (tmp_path / "continuous-seed1/test.json").unlink()
    done = run_forked("recipes.recall.summary", tmp_path, *made_of(runs), "--split", "valid")
    assert "Correct answers of the valid split" in done.stdout and "100.0" in done.stdout
    run_forked("recipes.plot", tmp_path / "results.json")
    assert (tmp_path / "by-distance.png").is_file()


def test_summary_refuses_answers_to_other_data(runs, tmp_path):
    shutil.copytree(runs / "none-seed1", tmp_path / "none-seed1")
    answers = dict(np.load(runs / "none-seed1/valid.npz"))
    np.savez(tmp_path / "none-seed1/valid.npz", **answers | {"offset": answers["offset"] + 1})
    refused = run_forked("recipes.recall.summary", tmp_path, *made_of(runs), check=False)
    assert refused.returncode == 1
    assert refused.stdout.splitlines()[-1].endswith("/valid.npz was scored on other data; run stage 4 again")


def test_ceiling_falls_sooner_with_a_fixed_contraction(capsys, monkeypatch):
    size = ["--basis", "64", "--samples", "128", "--widths", "0.02", "--documents", "64", "--distances", "16", "768"]
    monkeypatch.setattr(sys, "argv", ["ceiling.py", *size])
    ceiling.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    near, far = ({name: float(row[place]) for name, *row in rows} for place in (0, 1))
    assert near["continuous"] > 80 and near["continuous-fixed"] > 80
    assert far["continuous"] > far["continuous-fixed"] + 20


@pytest.mark.slow
def test_recall_recipe_in_small_shows_recall_beyond_the_context(tmp_path):
    # A quarter of the updates of one of its memories, so that the tests end.
    options = ["--tiny", "--dir", tmp_path, "--memory", "gibbs-log-bptt8", "--stage", 1, "--splits", "test"]
    run(ROOT / "recipes/recall/run.sh", *options, "--", "--max-update", 300, timeout=1200)
    found = json.loads((tmp_path / "results.json").read_text())
    beyond = np.array(found["distances"]) > found["context"]
    (trained,) = found["runs"]
    right = np.array(trained["test"]["right"]) / trained["test"]["asked"]
    assert found["distances"][list(beyond).index(True)] == 64 and beyond.sum() == 4
    # Four values: 25 % is chance, and all that is left without a memory; 240 answers at each distance. 53 and 50 % were
    # correct here at 32 and 64 words, before keys are tied to their values: a step that rounding may bring forward.
    assert found["distances"][1:3] == [32, 64] and right[[1, 2]].mean() > 0.38
    assert (tmp_path / "by-distance.png").is_file()
