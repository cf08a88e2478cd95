"""The parts of recipes/digits_speech: wrong options, times of encoders, tables and plots."""

import json
from pathlib import Path

import pytest
from command_line import run_here
from recipe_options import experiment
from small_speech import BINS, config
from small_translation import dictionary

from fairseq_infformer.models.streaming_translation import StreamingTranslation
from recipes import launches, plot
from recipes.digits_speech import cost, summary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --raw, the folder of the recordings"),
        (("--raw", "RAW", "--split", "train"), "--split must be valid or test, got train"),
        (("--raw", "RAW", "--encoder", "slots"), "unknown encoder slots; choose from bank,continuous,none,"),
    ],
)
def test_check_refuses_wrong_options(words, message, capsys):
    with pytest.raises(SystemExit):
        experiment("digits_speech", *words)
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_translation_starts_from_recognition_with_the_same_encoder():
    made = experiment("digits_speech", "--raw", "RAW", "--encoder", "bank", "--dir", "/tmp/a run")
    first, then = (made.train_arguments(name, 3) for name in ("recognition-bank", "bank"))
    assert first[0] == "/tmp/a run/data-recognition" and then[0] == "/tmp/a run/data"
    file = then[then.index("--load-pretrained-encoder-from") + 1]
    assert file == f"{first[first.index('--save-dir') + 1]}/checkpoint_last.pt"


@pytest.mark.parametrize("seen", ["segments", "all"])
def test_main_times_the_encoder_of_a_checkpoint(seen, monkeypatch, capsys):
    model = StreamingTranslation.build(config(encoder_input=seen), dictionary(), BINS).eval()

    class Task:
        class data_cfg:
            input_feat_per_channel = BINS

    monkeypatch.setattr(cost, "load", lambda path, data: (model, Task))
    monkeypatch.setattr(cost, "LONGEST", 2)
    assert run_here(cost.main, "model.pt", "data", "--heard", "1,2,3") == (0, "")
    found = json.loads(capsys.readouterr().out)
    assert found["heard"] == ([1, 2] if seen == "all" else [1, 2, 3])  # which would take too long
    assert len(found["milliseconds"]) == len(found["heard"]) and min(found["milliseconds"]) > 0
    code, error = run_here(cost.main, "model.pt", "data", "--heard", "2,1")
    assert code == 1 and "--heard must be seconds that increase, got 2,1" in error


TRAIN_LOG = """| num. shared model params: 1,234 (num. trained: 1,234)
| train_inner | {"epoch": 1, "nll_loss": "2.5", "num_updates": "10", "wall": "60"}
"""
LATENCY = {f"{name}{suffix}": 1000.0 for name in summary.LATENCY for suffix in ("", "_CA")}


def made_up(root: Path, name: str, accuracy: float, unbroken: bool) -> None:
    """A run as the recipe leaves it."""
    for folder in (root / f"recognition-{name}", root / name):
        folder.mkdir()
        launches.note(folder, ["fairseq-train"])
        (folder / "train.log").write_text(TRAIN_LOG)
    scores = {f"k{k}-{stream}": accuracy + n for n, k in enumerate(("1", "inf")) for stream in ("5s", "120s")}
    for stream, value in (scores | ({"k1-unbroken": 1.0} if unbroken else {})).items():
        quality = {"word accuracy": value, "BLEU": 50.0, "chrF": 60.0, "ms per segment": 5.0}
        (root / name / f"test-{stream}.json").write_text(json.dumps(quality | LATENCY))
    (root / name / "cost.json").write_text(json.dumps({"heard": [5, 10], "milliseconds": [2.0, 3.0]}))


def test_summary_shows_quality_by_stream_and_k_over_seeds(tmp_path, capsys):
    for seed, accuracy in ((1, 80.0), (2, 90.0)):
        made_up(tmp_path, f"bank-seed{seed}", accuracy, True)
    made_up(tmp_path, "full-seed1", 30.0, False)
    command = "recipes/digits_speech/run.sh --raw DIR"
    code, error = run_here(summary.main, tmp_path, "--split", "test", "--command", command)
    assert code == 0, error
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["bank", "augmented memory", "1,234", "2", "10", "1.0 min", "10", "1.0 min"] in rows
    assert ["encoder", "5s, k = 1", "5s, k = ∞", "120s, k = 1", "120s, k = ∞", "unbroken, k = 1"] in rows
    assert ["bank", *["85.0 ± 7.1", "86.0 ± 7.1"] * 2, "1.0 ± 0.0"] in rows
    assert ["full", *["30.0", "31.0"] * 2, ""] in rows
    assert ["encoder", "5 s", "10 s"] in rows and ["full", "2.0", "3.0"] in rows
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"] == f"{command} --encoder bank,full --seeds 1,2"
    drawn = plot.draw(results, "", tmp_path)
    assert [file.name for file in drawn] == ["quality.png", "time.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn)
