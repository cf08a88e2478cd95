"""The example memory, as a user's plugin registers it: nothing else of the project knows it."""

import pytest
from command_line import ROOT, TASK, TINY, infformer_eval, one_error, run_forked

PLUGIN = ROOT / "examples/your_own_memory"
TRAINING = ["--tokens-per-sample", 16, "--document-boundaries", "reset", "--batch-size", 24, "--max-update", 30]


def train(documents, save, *more, check=True):
    task = ["--user-dir", PLUGIN, *TASK[2:]]
    flags = [*TINY, "--save-dir", save, *TRAINING, "--disable-validation", "--lr", "1e-2", "--long-term-memory", "mean"]
    return run_forked("fairseq-train", documents, *task, *flags, *more, check=check)


def test_example_memory_trains_scores_ablates_and_exports(documents, tmp_path):
    train(documents, tmp_path / "saved", "--mean-scale", 2)
    checkpoint = tmp_path / "saved/checkpoint_last.pt"
    own = ["--user-dir", PLUGIN, "--batch-size", 4]
    ablations = ("none", "zero", "swap")
    found = [infformer_eval(documents, checkpoint, *own, "--ablation", ablation)["nll"] for ablation in ablations]
    assert len(set(found)) == 3
    run_forked("infformer-export", documents, *own[:2], "--path", checkpoint, "--dest", tmp_path / "exported")
    assert infformer_eval(documents, tmp_path / "exported", *own)["nll"] == pytest.approx(found[0], rel=1e-6)
    train(documents, tmp_path / "saved", "--mean-scale", 2, "--save-interval-updates", 35, "--max-update", 40)


def test_example_memory_has_at_most_sixty_lines():
    assert len((PLUGIN / "__init__.py").read_text(encoding="utf-8").splitlines()) <= 60


def test_example_memory_reports_a_wrong_setting_by_its_option(documents, tmp_path):
    done = train(documents, tmp_path / "saved", "--mean-scale", 0, check=False)
    assert done.returncode == 1 and one_error(done.stdout) == "error: --mean-scale must be positive, got 0.0"


def test_unregistered_memory_is_refused(documents, tmp_path):
    done = train(documents, tmp_path / "saved", "--long-term-memory", "media", check=False)
    assert "--long-term-memory must be one of none, bank, compressive, continuous," in one_error(done.stdout)
