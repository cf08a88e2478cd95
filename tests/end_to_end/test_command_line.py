"""Preprocess, train, validate and evaluate from end to end, as a user does."""

import json
import math
import re
import shutil
import subprocess

import pytest
import torch
from command_line import (
    BIN,
    TASK,
    TINY,
    as_flags,
    eval_lm,
    infformer_eval,
    logged,
    perplexity,
    run,
    run_forked,
    run_here,
    scored,
    train,
)

from fairseq_infformer.cli import evaluate

TRAINING = ["--tokens-per-sample", 16, "--batch-size", 4, "--max-update", 2]
TOKENS = 4 * 202  # of the validation and of the test split
RESET = ["--document-boundaries", "reset"]


def test_training_logs_the_loss_terms_and_the_attention(trained):
    _, log = trained
    for name in ("loss", "nll_loss", "ppl", "kl", "ltm_mu", "ltm_mu_std", "ltm_sigma", "ltm_sigma_std"):
        assert logged(log, "train_inner", name), name
    assert logged(log, "train_inner", "nll_loss")[-1] < logged(log, "train_inner", "nll_loss")[0] - 0.3


def test_training_writes_the_loss_terms_to_tensorboard(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0].parent / "tensorboard" / "train_inner"))
    events.Reload()
    assert {"nll_loss", "kl", "ltm_mu", "ltm_sigma"} <= set(events.Tags()["scalars"])


def run_as_a_shell(script: str, *flags: object) -> subprocess.CompletedProcess:
    return run(BIN / script, *flags)


@pytest.mark.parametrize("start", [run_forked, pytest.param(run_as_a_shell, marks=pytest.mark.slow)])
def test_eval_lm_and_validate_print_the_perplexity_of_training(start, documents, trained):
    """test_bad_input has a script that a shell starts among its fast tests."""
    checkpoint, log = trained
    flags = [*TASK, *RESET, "--path", checkpoint, "--batch-size", 4, "--cpu", "--num-workers", 0]
    text = start("fairseq-eval-lm", documents, *flags, "--tokens-per-sample", 16, "--gen-subset", "valid").stdout
    assert scored(text) == TOKENS
    # All round to two digits; the first sums the losses in another order, and each may have threads of its own.
    assert perplexity(text) == pytest.approx(logged(log, "valid", "ppl")[-1], abs=0.011)
    again = start("fairseq-validate", documents, *flags).stdout
    assert logged(again, "valid", "ppl")[-1] == pytest.approx(logged(log, "valid", "ppl")[-1], abs=0.011)


@pytest.mark.slow
def test_eval_lm_does_not_depend_on_workers_and_hardly_on_batch_size(documents, trained):
    checkpoint, _ = trained

    def score(*more):
        text = eval_lm(documents, checkpoint, *RESET, "--tokens-per-sample", 16, "--gen-subset", "test", *more).stdout
        assert scored(text) == TOKENS
        return perplexity(text)

    one = score()
    assert score("--batch-size", 4, "--num-workers", 2) == score("--batch-size", 4, "--num-workers", 0)
    # Four documents, so that every row starts where one does: the same sums, of rows that stand beside others. The two
    # digits that are printed may be rounded the other way.
    assert score("--batch-size", 4) == pytest.approx(one, abs=0.011)
    # Half of these rows lack the first half of their document.
    assert score("--batch-size", 8) == pytest.approx(one, rel=0.1)


@pytest.mark.parametrize("length", [37, 100])
def test_eval_lm_accepts_other_segment_lengths(documents, trained, length):
    for more in (RESET, []):
        text = eval_lm(documents, trained[0], *more, "--tokens-per-sample", length, "--gen-subset", "test").stdout
        assert scored(text) == TOKENS
        assert perplexity(text) < 64  # better than to guess among the 65 types


@pytest.mark.slow
def test_infformer_eval_prints_figures_per_token_word_and_byte(documents, trained):
    text = eval_lm(documents, trained[0], *RESET, "--tokens-per-sample", 16, "--gen-subset", "test").stdout
    found = infformer_eval(documents, trained[0])
    assert found["tokens"] == TOKENS
    assert found["perplexity_per_token"] == pytest.approx(perplexity(text), abs=0.01)
    stats = json.loads((documents / "stats.json").read_text())["splits"]["test"]
    assert found["perplexity_per_word"] == pytest.approx(math.exp(found["nll"] / stats["words"]))
    assert found["bits_per_byte"] == pytest.approx(found["nll"] / math.log(2) / stats["bytes"])
    table = run(BIN / "infformer-eval", documents, "--path", trained[0], "--cpu", stderr=subprocess.PIPE)
    assert table.stderr == ""
    # Of a process of its own, which may have fewer threads than the first.
    printed = float(re.search(r"perplexity per token +([\d.]+)", table.stdout)[1])
    assert printed == pytest.approx(found["perplexity_per_token"], rel=1e-5)


def test_infformer_eval_gives_infinity_for_a_perplexity_beyond_floats():
    """A thousand lines without spaces, as in Chinese, are two thousand words."""
    found = evaluate.results({"nll_loss": 3e6, "ntokens": 1e6}, {"words": 2000, "bytes": 3_000_000})
    assert found["perplexity_per_word"] == math.inf
    assert found["perplexity_per_token"] == pytest.approx(math.exp(3))
    assert found["bits_per_byte"] == pytest.approx(1 / math.log(2))


def test_infformer_eval_prints_standard_json(documents, trained, tmp_path, capsys):
    """A perplexity that is infinite is null."""
    data = shutil.copytree(documents, tmp_path / "data")
    stats = json.loads((data / "stats.json").read_text())
    stats["splits"]["test"]["words"] = 1
    (data / "stats.json").write_text(json.dumps(stats))
    code, text = run_here(evaluate.main, data, "--path", trained[0], "--cpu", "--json", "--tokens-per-sample", 200)
    assert code == 0, text

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["perplexity_per_word"] is None and found["perplexity_per_token"] < 64


@pytest.mark.slow
def test_training_accepts_update_freq_workers_joined_data_and_adaptive_softmax(documents, tmp_path):
    more = ["--adaptive-input", "--adaptive-softmax-cutoff", "20,40", "--checkpoint-activations", "--dropout", "0.1"]
    log = train(
        f"{documents}:{documents}",
        tmp_path,
        *as_flags(tokens_per_sample=31, batch_size=24, update_freq=3, num_workers=3, max_epoch=2, log_interval=5),
        *more,
    ).stdout
    assert logged(log, "valid", "ppl")
    assert logged(log, "train", "num_updates")[-1] == 2 * math.ceil(math.ceil(96 * 202 / 31 / 24) / 3)


def test_infformer_eval_ablates_the_memory(documents, trained):
    ablations = ("none", "zero", "swap")
    found = [
        infformer_eval(documents, trained[0], "--batch-size", 4, "--ablation", ablation)["nll"]
        for ablation in ablations
    ]
    assert len(set(found)) == 3


def test_user_dir_may_register_a_density(documents, tmp_path):
    """A plugin of the user's imports this one and adds a density under a name of its own."""
    plugin = tmp_path / "my_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(
        "import fairseq_infformer.plugin\n"
        "from fairseq_infformer.modules.memories.continuous.density import GaussianDensity, register_density\n\n"
        "@register_density('mine')\nclass MyDensity(GaussianDensity):\n    pass\n"
    )
    task = ["--user-dir", plugin, *TASK[2:]]
    save = ["--save-dir", tmp_path / "checkpoints"]
    done = run_forked("fairseq-train", documents, *task, *TINY, *save, *TRAINING, "--ltm-density", "mine")
    assert logged(done.stdout, "valid", "ltm_sigma")
    checkpoint = tmp_path / "checkpoints" / "checkpoint_last.pt"
    assert infformer_eval(documents, checkpoint, "--user-dir", plugin)["tokens"] == TOKENS
    export = ["--path", checkpoint, "--user-dir", plugin, "--dest", tmp_path / "given"]
    run_forked("infformer-export", documents, *export)
    assert infformer_eval(documents, tmp_path / "given", "--user-dir", plugin)["tokens"] == TOKENS
    without = run_forked("infformer-eval", documents, "--path", checkpoint, "--cpu", check=False)
    assert without.returncode == 1 and "--ltm-density must be one of" in without.stdout


def test_checkpoint_loads_with_weights_only(trained):
    assert "model" in torch.load(trained[0], weights_only=True)
