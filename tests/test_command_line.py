"""Preprocess, train, validate and evaluate from end to end, as a user does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import BIN, TASK, TINY, eval_lm, infformer_eval, logged, perplexity, run, scored, train

TOKENS = 4 * 202  # of the validation and of the test split
RESET = ["--document-boundaries", "reset"]


def test_training_logs_the_terms_of_the_loss_and_the_attention(trained):
    _, log = trained
    for name in ("loss", "nll_loss", "ppl", "kl", "ltm_mu", "ltm_mu_std", "ltm_sigma", "ltm_sigma_std"):
        assert logged(log, "train_inner", name), name
    assert logged(log, "train_inner", "nll_loss")[-1] < logged(log, "train_inner", "nll_loss")[0] - 0.3


def test_tensorboard_gets_the_terms_too(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0].parent / "tensorboard" / "train_inner"))
    events.Reload()
    assert {"nll_loss", "kl", "ltm_mu", "ltm_sigma"} <= set(events.Tags()["scalars"])


def test_eval_lm_prints_the_validation_perplexity_over_all_tokens(documents, trained):
    checkpoint, log = trained
    text = eval_lm(
        documents, checkpoint, *RESET, "--tokens-per-sample", 16, "--gen-subset", "valid", "--batch-size", 4
    ).stdout
    assert scored(text) == TOKENS
    assert perplexity(text) == pytest.approx(logged(log, "valid", "ppl")[-1], abs=0.011)  # both round to 2 digits
    again = run(
        BIN / "fairseq-validate", documents, *TASK, *RESET, "--path", checkpoint, "--batch-size", 4, "--cpu"
    ).stdout
    assert logged(again, "valid", "ppl")[-1] == logged(log, "valid", "ppl")[-1]


@pytest.mark.slow
def test_perplexity_does_not_depend_on_workers_and_hardly_on_batch_size(documents, trained):
    checkpoint, _ = trained

    def score(*more):
        text = eval_lm(documents, checkpoint, *RESET, "--tokens-per-sample", 16, "--gen-subset", "test", *more).stdout
        assert scored(text) == TOKENS
        return perplexity(text)

    one = score()
    assert score("--batch-size", 4, "--num-workers", 2) == score("--batch-size", 4, "--num-workers", 0)
    assert score("--batch-size", 4) == one  # four documents: every row starts where a document does
    # Half of these rows lack the first half of their document.
    assert score("--batch-size", 8) == pytest.approx(one, rel=0.1)


@pytest.mark.parametrize("length", [37, 100])
def test_a_checkpoint_evaluates_at_other_segment_lengths(documents, trained, length):
    for more in (RESET, []):
        text = eval_lm(documents, trained[0], *more, "--tokens-per-sample", length, "--gen-subset", "test").stdout
        assert scored(text) == TOKENS
        assert perplexity(text) < 64  # better than to guess among the 65 types


@pytest.mark.slow
def test_infformer_eval_prints_per_token_per_word_and_per_byte(documents, trained):
    text = eval_lm(documents, trained[0], *RESET, "--tokens-per-sample", 16, "--gen-subset", "test").stdout
    found = infformer_eval(documents, trained[0])
    assert found["tokens"] == TOKENS
    assert found["perplexity_per_token"] == pytest.approx(perplexity(text), abs=0.01)
    stats = json.loads((documents / "stats.json").read_text())["splits"]["test"]
    assert found["perplexity_per_word"] == pytest.approx(math.exp(found["nll"] / stats["words"]))
    assert found["bits_per_byte"] == pytest.approx(found["nll"] / math.log(2) / stats["bytes"])
    table = run(BIN / "infformer-eval", documents, "--path", trained[0], "--cpu").stdout
    assert f"{found['perplexity_per_token']:.6g}" in table


@pytest.mark.slow
def test_update_freq_workers_joined_data_and_adaptive_softmax_train(documents, tmp_path):
    more = ["--adaptive-input", "--adaptive-softmax-cutoff", "20,40", "--checkpoint-activations", "--dropout", "0.1"]
    log = train(
        *(f"{documents}:{documents}", tmp_path, "--tokens-per-sample", 13, "--batch-size", 24, "--update-freq", 3),
        *("--num-workers", 3, "--max-epoch", 2, "--log-interval", 5, *more),
    ).stdout
    assert logged(log, "valid", "ppl")
    assert logged(log, "train", "num_updates")[-1] == 2 * math.ceil(math.ceil(96 * 202 / 13 / 24) / 3)


def test_the_memory_is_evaluated_zeroed_and_swapped(documents, trained):
    kinds = ("none", "zero", "swap")
    found = [infformer_eval(documents, trained[0], "--batch-size", 4, "--ablation", kind)["nll"] for kind in kinds]
    assert len(set(found)) == 3


def test_a_density_of_the_user_s_own_trains(documents, tmp_path):
    """A plugin of the user's imports this one and adds a density under a name of its own."""
    plugin = tmp_path / "my_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(
        "from fairseq_infformer.modules.density import GaussianDensity, register_density\n\n"
        "@register_density('mine')\nclass MyDensity(GaussianDensity):\n    pass\n"
    )
    task = ["--user-dir", plugin, *TASK[2:]]
    save = ["--save-dir", tmp_path / "checkpoints"]
    done = run(BIN / "fairseq-train", documents, *task, *TINY, *save, *TRAINING, "--ltm-density", "mine")
    assert logged(done.stdout, "valid", "ltm_sigma")


@pytest.fixture(scope="module")
def broken(documents, tmp_path_factory) -> dict[str, Path]:
    """Data with something wrong in it."""
    folder = tmp_path_factory.mktemp("broken")

    def variant(name: str, keep=lambda path: True) -> Path:
        (folder / name).mkdir()
        for path in documents.iterdir():
            if path.is_file() and keep(path):
                (folder / name / path.name).write_bytes(path.read_bytes())
        return folder / name

    found = {
        "no valid": variant("no-valid", lambda path: not path.name.startswith("valid.")),
        "no dictionary": variant("no-dictionary", lambda path: path.name != "dict.txt"),
        "no documents": variant("no-documents", lambda path: path.suffix != ".npy"),
        "other dictionary": variant("other-dictionary"),
        "other documents": variant("other-documents"),
        "other dictionary, no stats": variant("other-dictionary-no-stats", lambda path: path.name != "stats.json"),
    }
    np.save(found["other documents"] / "train.documents.npy", np.array([0, 10**9]))
    for name in ("other dictionary", "other dictionary, no stats"):
        dictionary = found[name] / "dict.txt"
        dictionary.write_text("".join(dictionary.read_text().splitlines(keepends=True)[:-5]))
    return found


TRAINING = ["--tokens-per-sample", 16, "--batch-size", 4, "--max-update", 2]
TRAINING_MISTAKES = [
    ("", ["--batch-size", 10_000], r"10000 streams .* more than the \d+ segments .* smaller --batch-size"),
    ("", ["--batch-size-valid", 500], r"500 streams .* more than the \d+ segments .*--batch-size-valid"),
    ("", ["--ltm-basis", 15], "multiple of the number of widths"),
    ("", ["--stm-length", -1], "--stm-length must be 0 or more, got -1"),
    ("", ["--tokens-per-sample", 0], "--tokens-per-sample must be positive, got 0"),
    ("", ["--valid-subset", "dev"], r"there is no split 'dev' in .*; it has test, train, valid"),
    ("", ["--ltm-kl-sigma", 0], "--ltm-kl-sigma must be positive"),
    ("no valid", [], "there is no split 'valid'"),
    ("no dictionary", [], r"dict.txt does not exist; make the data with preprocess/prepare.sh"),
    ("no documents", RESET, "needs data prepared with --documents"),
    ("other documents", RESET, "does not fit the 19392 tokens beside it"),
    ("other dictionary", [], "is not the dictionary that the data beside it was made with"),
    ("other dictionary, no stats", [], r"dict.txt has \d+ types: it belongs to another corpus"),
]


def one_error(text: str) -> str:
    """The line that names the mistake; there must be no traceback beside it."""
    assert "Traceback" not in text, text[-3000:]
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text[-3000:]
    return errors[0]


@pytest.mark.parametrize(("data", "flags", "message"), TRAINING_MISTAKES)
def test_training_names_a_mistake_in_one_line(data, flags, message, documents, broken, tmp_path):
    import re

    done = train(broken.get(data, documents), tmp_path, *TRAINING, *flags, check=False)
    assert done.returncode == 1
    assert re.search(message, one_error(done.stdout)), done.stdout[-2000:]
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.slow
def test_evaluation_names_a_mistake_in_one_line(documents, broken, trained, tmp_path):
    checkpoint, _ = trained
    segment = ["--tokens-per-sample", 16]

    def error(*more, data=documents) -> str:
        done = eval_lm(data, checkpoint, *more, check=False)
        assert done.returncode
        return one_error(done.stdout)

    assert "--context-window 4 does not apply" in error(*segment, "--context-window", 4)
    assert "result of shard 0 of 2 alone" in error(*segment, "--num-shards", 2)
    assert "result of shard 1 of 1 alone" in error(*segment, "--shard-id", 1)
    assert "prepare.sh --dict" in error(*segment, data=broken["other dictionary, no stats"])
    overrides = "{'ltm_basis': 8}"
    assert "16 functions of widths (0.05, 0.2), the model's has 8" in error(*segment, "--model-overrides", overrides)
    done = run(
        *(BIN / "fairseq-eval-lm", documents, "--user-dir", "fairseq_infformer", "--path", checkpoint, "--cpu"),
        check=False,
    )
    assert done.returncode == 1
    assert "--task streaming_language_modeling" in one_error(done.stdout)
    missing = run(BIN / "infformer-eval", documents, "--path", tmp_path / "none.pt", check=False)
    assert "there is no checkpoint" in one_error(missing.stdout)


def test_a_checkpoint_loads_as_weights_only(trained):
    assert "model" in torch.load(trained[0], weights_only=True)
