"""A search for an architecture, and what is made of it, as a user runs them."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_line import ROOT, as_flags, checked, free_port, one_error, run_here
from fairseq_cli import generate, train
from forking import start_command
from translation_data import write_pairs

from fairseq_infformer.cli import architecture

PLUGIN = ["--user-dir", ROOT / "fairseq_infformer"]
SIZE = {"embed_dim": 24, "factor_dim": 8, "encoder_layers": 2, "decoder_layers": 2, "attention_heads": 2}
TRAINING = as_flags(
    criterion="label_smoothed_cross_entropy",
    label_smoothing=0.1,
    lr="1e-2",
    max_tokens=64,
    log_format="simple",
    log_interval=2,
    num_workers=0,
    no_epoch_checkpoints=True,
    cpu=True,
)
SEARCH = as_flags(
    task="translation_search",
    arch="dartsformer_search",
    optimizer="search_adam",
    **SIZE,
    encoder_operations="feed-forward,zero,convolution-3",
    decoder_operations="feed-forward,zero,convolution-3,cross-attention",
    save_interval_updates=4,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "data", train=160, valid=8, test=11)


def run_training(pairs: Path, save: Path, *flags: object) -> tuple[int, str]:
    return run_here(train.cli_main, pairs, *PLUGIN, *TRAINING, "--save-dir", save, *flags)


@pytest.fixture(scope="module")
def searched(pairs, tmp_path_factory) -> Path:
    """The folder of a search of ten updates, beside what it logged of α."""
    save = tmp_path_factory.mktemp("searched") / "save"
    logger = logging.getLogger("fairseq_infformer.tasks.translation_search")
    logger.addHandler(handler := logging.FileHandler(save.with_suffix(".log")))
    logger.setLevel(logging.INFO)
    code, text = run_training(pairs, save, *SEARCH, "--max-update", 10)
    logger.removeHandler(handler)
    assert code == 0, text
    return save


def weights(save: Path, name: str = "checkpoint_last.pt") -> dict[str, torch.Tensor]:
    return torch.load(save / name, weights_only=True)["model"]


def test_search_that_stopped_resumes_to_the_same_weights_and_alphas(pairs, searched, tmp_path):
    save = tmp_path / "save"
    save.mkdir()
    shutil.copy(next(searched.glob("checkpoint_*_4.pt")), save / "checkpoint_last.pt")
    code, text = run_training(pairs, save, *SEARCH, "--max-update", 10)
    assert code == 0, text
    resumed, whole = weights(save), weights(searched)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_search_logs_the_weights_of_all_operations(searched):
    lines = re.findall(r"alpha \| (\{.*\})", searched.with_suffix(".log").read_text())
    course = [json.loads(line) for line in lines]
    assert [each["num_updates"] for each in course] == [2, 4, 6, 8, 10]
    assert sum(course[0]["decoder"][1][1]) == pytest.approx(1, abs=1e-3)
    assert course[0]["decoder"] != course[-1]["decoder"]


def test_weights_and_architecture_train_in_turn(pairs, searched, tmp_path):
    before = weights(searched, next(searched.glob("checkpoint_*_8.pt")).name)
    shutil.copytree(searched, save := tmp_path / "save")
    shutil.copy(next(searched.glob("checkpoint_*_8.pt")), save / "checkpoint_last.pt")
    code, text = run_training(pairs, save, *SEARCH, "--max-update", 9)
    assert code == 0, text
    ninth, tenth = weights(save), weights(searched)
    for one, other, alpha in ((before, ninth, False), (ninth, tenth, True)):
        changed = {name.endswith("alpha") for name in one if not torch.equal(one[name], other[name])}
        assert changed == {alpha}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
def test_search_on_two_processes_equals_one_with_twice_the_batches(backend, pairs, tmp_path):
    alike = [*SEARCH, "--max-update", 4, "--dropout", 0, "--save-interval-updates", 0]
    code, text = run_training(pairs, tmp_path / "one", *alike, "--update-freq", 2)
    assert code == 0, text
    address = f"tcp://127.0.0.1:{free_port()}"
    shared = as_flags(distributed_world_size=2, distributed_init_method=address, distributed_backend="gloo")
    shared += ["--ddp-backend", backend, "--distributed-no-spawn"]
    command = ["fairseq-train", pairs, *PLUGIN, *TRAINING, "--save-dir", tmp_path / "two", *alike, *shared]
    for done in [start_command(*command, "--distributed-rank", rank) for rank in range(2)]:
        checked(done.wait())
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    # Adam divides by the size of a gradient, so a rounding of one near zero becomes a part of the step of 1e-2.
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-4)


def test_search_is_derived_trained_and_translated_with(pairs, searched, tmp_path, capsys):
    file, save, results = tmp_path / "net.json", tmp_path / "net", tmp_path / "results"
    run_here(architecture.main, searched / "checkpoint_last.pt", "--output", file)
    table = capsys.readouterr().out
    assert re.search(r"decoder +1 +1  \S+ +\S+ 0\.\d+, \S+ 0\.\d+, \S+ 0\.\d+\n", table)
    derived = [
        "--task",
        "translation",
        "--arch",
        "dartsformer",
        "--architecture",
        file,
        "--optimizer",
        "adam",
        *as_flags(**SIZE),
    ]
    code, text = run_training(pairs, save, *derived, "--max-update", 2)
    assert code == 0, text
    chosen = json.loads(file.read_text())
    file.unlink()
    run_here(architecture.main, save / "checkpoint_last.pt")
    operations = re.findall(r"(?:en|de)coder +\d +\d  (\S+)\n", capsys.readouterr().out)
    assert operations == [name for side in chosen.values() for layer in side for name in layer]
    translating = [*PLUGIN, "--path", save / "checkpoint_last.pt", "--beam", 2, "--max-len-b", 9, "--cpu"]
    scoring = ["--scoring", "sacrebleu", "--num-workers", 0, "--results-path", results]
    code, text = run_here(generate.cli_main, pairs, *translating, *scoring)
    assert code == 0, text
    lines = (results / "generate-test.txt").read_text().splitlines()
    assert len([line for line in lines if line.startswith("D-")]) == 11
    assert lines[-1].startswith("Generate test with beam=2: BLEU = ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "translation"], "--task translation does not search; give --task translation_search for --arch"),
        (["--optimizer", "adam"], "--task translation_search needs --optimizer search_adam, got adam"),
        (["--update-freq", "0"], "--update-freq must be 1 or more, got 0"),
        (["--architecture-lr", "-1"], "--architecture-lr must be 0 or more, got -1.0"),
        (["--max-tokens", "1000"], "a search trains on two halves of the training pairs, of 1 and 1 batches, but an"),
        (["--train-subset", "other"], "has no split 'other' of en and de; give a folder that fairseq-preprocess wrote"),
        (["--target-lang", "fr", "--source-lang", "en"], "has no dict.fr.txt; give a folder that fairseq-preprocess"),
        (["--max-source-positions", "4"], "skip this example with --skip-invalid-size-inputs-valid-test"),
        (["--embed-dim", "20"], "--embed-dim must be a multiple of 3 splits times --attention-heads, got 20 and 2"),
    ],
)
def test_wrong_search_ends_in_one_line(flags, message, pairs, tmp_path):
    more = ["--update-freq", 2] if "--max-tokens" in flags else []
    code, text = run_training(pairs, tmp_path / "save", *SEARCH, "--max-update", 2, *more, *flags)
    assert code == 1 and message in one_error(text)
    assert not (tmp_path / "save/checkpoint_last.pt").exists()


def test_folder_without_pairs_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "has no pairs of sentences"), ("nowhere", "is not a folder")):
        code, text = run_training(tmp_path / folder, tmp_path / "save", *SEARCH, "--max-update", 2)
        assert code == 1 and message in one_error(text)


def test_model_without_an_architecture_is_not_searched(pairs, tmp_path):
    flags = ["--task", "translation_search", "--arch", "transformer", "--optimizer", "adam"]
    code, text = run_training(pairs, tmp_path / "save", *flags)
    assert code == 1 and "--task translation_search cannot search --arch transformer; give --arch" in one_error(text)


def test_checkpoint_without_an_architecture_is_named(searched, tmp_path):
    state = torch.load(searched / "checkpoint_last.pt", weights_only=True)
    del state["model"]["decoder.layers.alpha"]
    torch.save(state, tmp_path / "other.pt")
    for path, message in (("other.pt", "has no architecture; give a checkpoint of"), ("none.pt", "does not exist")):
        code, text = run_here(architecture.main, tmp_path / path)
        assert code == 1 and message in one_error(text)
