"""The parts of recipes/multi30k: text in pieces, random architectures, scores, and the course of a search."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run_here
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from parallel_text import write_raw
from recipe_options import experiment
from small_model import dictionary

from fairseq_infformer.cli import architecture
from fairseq_infformer.data.vocabulary import load_sentencepiece
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.dartsformer import Dartsformer, DartsformerSearch, read_architecture
from fairseq_infformer.models.dartsformer.configuration import DartsformerConfig, DartsformerSearchConfig
from recipes import launches, plot
from recipes.multi30k import bleu, course, plot_search, random_nets, summary, text

# ---- text ----


def test_text_is_cut_into_pieces_that_join_to_the_sentences(tmp_path):
    raw = write_raw(tmp_path / "raw")
    (raw / "val.de").write_text((raw / "val.de").read_text().replace(".\n", ".  x\u00a0y \n"))
    assert run_here(text.main, "--raw", raw, "--dest", tmp_path / "text", "--vocab-size", 320) == (0, "")
    folder = tmp_path / "text"
    sentences = (folder / "valid.raw.de").read_text().splitlines()
    assert len(sentences) == 60 and all(line.endswith(". x y") for line in sentences)
    pieces = (folder / "valid.de").read_text().splitlines()
    assert len(load_sentencepiece(folder / text.MODEL)) == 320
    joined = (line.replace(" ", "").replace("\u2581", " ").strip() for line in pieces)  # as fairseq-generate does
    # Letters that the training text lacks are spelled in bytes.
    assert bleu.translations("".join(f"D-{n}\t-1\t{line}\n" for n, line in enumerate(joined))) == sentences
    code, error = run_here(text.main, "--raw", raw, "--dest", folder, "--vocab-size", 330)
    assert code == 1 and "holds something else; give another --dest or remove it" in error


def test_text_takes_other_names_of_splits(tmp_path):
    files = text.files_of(write_raw(tmp_path / "raw", {"train": 1, "valid": 1, "test": 1}))
    assert [file.name for file in files["test"]] == ["test.en", "test.de"]


def test_text_names_files_that_are_missing_or_of_another_length(tmp_path):
    raw = write_raw(tmp_path / "raw")
    with (raw / "train.de").open("a") as file:
        file.write("one more\n")
    with pytest.raises(InputError, match=r"needs as many lines in train.en and train.de, got 60 and 61"):
        text.files_of(raw)
    (raw / "val.en").unlink()
    (raw / "train.de").write_bytes((raw / "train.en").read_bytes())
    with pytest.raises(InputError, match=r"needs the files val.en and val.de"):
        text.files_of(raw)


# ---- random architectures ----

NAMES = (["zero", "small", "middle", "large"], ["zero", "small", "large"])
SIZES = {"zero": 0, "small": 3, "middle": 500, "large": 1000}
COUNTS = [[[[SIZES[name] for name in own]] * 2] * 2 for own in NAMES]


def test_draw_gives_each_architecture_of_as_many_parameters_as_often():
    size = 500 + 7 * 3  # one node of middle size, of which the encoder alone has any, in 4 places
    drawn = [random_nets.draw(size, NAMES, COUNTS, seed) for seed in range(400)]
    seen = [sum((layer for side in each for layer in side), ()) for each in drawn]
    assert all(sorted(nodes) == ["middle", *["small"] * 7] for nodes in seen)
    counts = np.unique([nodes.index("middle") for nodes in seen], return_counts=True)[1]
    # 100 each; their standard deviation is √(400 · 1/4 · 3/4) = 9, and the seeds are fixed.
    assert len(counts) == 4 and abs(counts - 100).max() < 30
    assert random_nets.draw(size, NAMES, COUNTS, 7) == drawn[7]


def test_draw_never_lacks_an_architecture():
    """Not even where the found one is the largest of all."""
    (layers,) = {random_nets.draw(8 * 1000, NAMES, COUNTS, seed) for seed in range(3)}
    assert {name for side in layers for layer in side for name in layer} == {"large"}


def test_random_net_has_as_many_parameters_as_the_found_one(tmp_path, monkeypatch):
    """As counted in a search's checkpoint, whose two layers repeat, and in the nets that are built."""
    torch.manual_seed(0)
    task = TranslationTask(TranslationConfig(), dictionary(), dictionary())
    sizes = {"embed_dim": 24, "factor_dim": 8, "encoder_layers": 4, "decoder_layers": 2, "attention_heads": 2}
    cfg = DartsformerSearchConfig(**sizes, encoder_operations="convolution-3,zero,feed-forward,gated-linear-unit")
    supernet = DartsformerSearch.build(cfg, task)
    saved = {"cfg": {"model": vars(cfg)}, "model": supernet.state_dict()}
    monkeypatch.setattr(architecture, "load", lambda path: saved)
    assert run_here(random_nets.main, "search.pt", "--output", tmp_path / "net.json") == (0, "")
    found, drawn = supernet.architecture(), read_architecture(str(tmp_path / "net.json"))
    totals = []
    for each in (found, drawn):
        net = Dartsformer.build(DartsformerConfig(**sizes, architecture=each.to_json()), task)
        totals.append(sum(parameter.numel() for parameter in net.parameters()))
    counts = random_nets.counts_of(saved)
    searched = [random_nets.size_of(each, supernet.names, counts) for each in (found, drawn)]
    assert drawn != found and totals[1] - totals[0] == searched[1] - searched[0]
    assert abs(searched[1] - searched[0]) <= random_nets.TOLERANCE * searched[0]


# ---- scores, and the course of a search ----


def test_bleu_is_of_the_translations_in_the_order_of_the_sentences(tmp_path):
    (tmp_path / "reference").write_text("ein kleiner Hund läuft .\nzwei Katzen schlafen dort .\n")
    hypotheses = {1: "zwei Katzen schlafen dort .", 0: "ein kleiner Hund läuft ."}
    lines = (f"S-{n}\tx\nH-{n}\t-1.0\ty\nD-{n}\t-1.5e-03\t{text}\n" for n, text in hypotheses.items())
    (tmp_path / "test.txt").write_text("".join(lines))
    assert run_here(bleu.main, tmp_path / "test.txt", "--reference", tmp_path / "reference") == (0, "")
    found = json.loads((tmp_path / "test.json").read_text())
    assert found["bleu"] == 100 and found["sentences"] == 2 and "tok:13a" in found["bleu_signature"]


def test_bleu_refuses_translations_of_another_split(tmp_path):
    (tmp_path / "reference").write_text("one\ntwo\n")
    (tmp_path / "test.txt").write_text("D-0\t-1\tone\n")
    for name, message in (("test", "has 1 translations, but"), ("valid", "valid.txt does not exist; translate first")):
        code, error = run_here(bleu.main, tmp_path / f"{name}.txt", "--reference", tmp_path / "reference")
        assert code == 1 and message in error and not list(tmp_path.glob("*.json"))


def alpha(update: int, weight: float) -> str:
    node = [weight, round(1 - weight, 4)]
    sides = {"encoder": [[node, node]] * 2, "decoder": [[node[::-1], node]] * 2}
    return f"x | INFO | y | alpha | {json.dumps({'num_updates': update} | sides)}\n"


def test_course_of_a_search_that_was_stopped_has_each_update_once():
    found = course.read(alpha(10, 0.5) + alpha(20, 0.1) + "other | {}\n" + alpha(20, 0.6) + alpha(30, 0.75))
    assert found["update"] == [10, 20, 30]
    assert [point[1][0][0] for point in found["encoder"]] == [0.5, 0.6, 0.75]
    long = course.read("".join(alpha(10 * (n + 1), 0.5) for n in range(500)))
    assert course.POINTS <= len(long["update"]) < 2 * course.POINTS and long["update"][-1] == 5000


def test_course_is_drawn_of_the_log_of_any_search(tmp_path):
    (tmp_path / "log").write_text(alpha(10, 0.5) + alpha(20, 0.6))
    (tmp_path / "other").write_text("no search\n")
    two = ["--encoder-operations", "zero,identity", "--decoder-operations", "feed-forward,own", "--output"]
    assert run_here(plot_search.main, tmp_path / "log", *two, tmp_path / "course.png") == (0, "")
    assert (tmp_path / "course.png").read_bytes().startswith(b"\x89PNG")
    for log, flags, message in (
        ("log", ["--output"], "--encoder-operations must be the 2 of the search, got 13"),
        ("other", ["--output"], "has no line with alpha; give the log of a search"),
        ("nowhere", ["--output"], "nowhere does not exist; give the log of a search"),
    ):
        code, error = run_here(plot_search.main, tmp_path / log, *flags, tmp_path / "none.png")
        assert code == 1 and message in error and not (tmp_path / "none.png").exists()


TRAIN_LOG = """| num. shared model params: {} (num. trained: 9)
| train_inner | {{"epoch": 1, "nll_loss": "2.5", "num_updates": "{}", "wall": "60"}}
"""


def made_up(root: Path, name: str, parameters: str, updates: int, scores: dict[str, float]) -> None:
    """A run as the recipe leaves it."""
    folder = root / name
    folder.mkdir()
    launches.note(folder, ["fairseq-train"])
    (folder / "train.log").write_text(TRAIN_LOG.format(parameters, updates) + alpha(20, 0.5) + alpha(40, 0.7))
    (folder / "done").touch()
    for split, value in scores.items():
        (folder / f"{split}.json").write_text(json.dumps({"bleu": value, "bleu_signature": "tok:13a"}))


def test_summary_has_models_searches_and_what_they_have_found(tmp_path, capsys):
    net = {"encoder": [["feed-forward", "identity"]], "decoder": [["self-attention", "identity"]]}
    for seed, (transformer, found, random_net) in enumerate([(20, 21, 19), (22, 24, 19)], 1):
        made_up(tmp_path, f"transformer-seed{seed}", "900", 500, {"valid": transformer})
        made_up(tmp_path, f"found-seed{seed}", f"{800 + seed}", 500, {"valid": found})
        made_up(tmp_path, f"random-seed{seed}", "805", 500, {"valid": random_net})
        made_up(tmp_path, f"search-seed{seed}", "5,000", 40, {})
        (tmp_path / f"found-seed{seed}.json").write_text(json.dumps(net))
    command = "recipes/multi30k/run.sh --raw DIR"
    code, error = run_here(summary.main, tmp_path, "--split", "valid", "--beam", 5, "--command", command)
    assert code == 0, error
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    assert rows[:1] + rows[2:6] == [
        ["model", "parameters", "seeds", "updates", "training", "BLEU, valid"],
        ["transformer", "900", "2", "500", "1.0 min", "21.0 ± 1.4"],
        ["found", "801–802", "2", "500", "1.0 min", "22.5 ± 2.1"],
        ["random", "805", "2", "500", "1.0 min", "19.0 ± 0.0"],
        ["search", "5,000", "2", "40", "1.0 min", ""],
    ]
    assert "- seed 2: encoder (feed-forward + identity), decoder (self-attention + identity)" in printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"] == f"{command} --model transformer,found,random --seeds 1,2"
    results["operations"] = {"encoder": ["first", "second"], "decoder": ["first", "second"]}
    (drawn,) = plot.draw(results, "", tmp_path)
    assert drawn.name == "weights.png" and drawn.read_bytes().startswith(b"\x89PNG")


# ---- options ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--raw", "RAW", "--model", "found,best"], "unknown model best; choose from transformer,found,random"),
        (["--raw", "RAW", "--splits", "train"], "--splits must be valid, test or valid,test, got train"),
        (["--raw", "RAW", "--nproc", 7], "--nproc 7 does not divide the batch of 1500 tokens"),
        (["--dir", "new"], "give --raw, the folder of the sentences; recipes/multi30k/README.md says where to get"),
    ],
)
def test_recipe_refuses_wrong_options(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        experiment("multi30k", *words)
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_recipe_searches_only_for_models_that_come_of_a_search(tmp_path):
    words = ["--raw", "RAW", "--dir", tmp_path, "--dry-run", "--model"]
    assert experiment("multi30k", *words, "transformer").search() == []
    assert len(experiment("multi30k", *words, "random").search()) == 3


def test_recipe_refuses_a_net_from_before_its_architecture(tmp_path, capsys):
    made = experiment("multi30k", "--raw", "RAW", "--dir", tmp_path, "--model", "transformer,random", "--seeds", 1)
    for name, seconds in {"random-seed1/launches.jsonl": 2, "random-seed1.json": 1}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert len(made.train()) == 2
    os.utime(tmp_path / "random-seed1.json", (3, 3))
    with pytest.raises(SystemExit):
        made.train()
    assert f"{tmp_path}/random-seed1 is a net from before {tmp_path}/random-seed1.json was" in capsys.readouterr().err
