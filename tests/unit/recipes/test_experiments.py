"""Each recipe's sizes and memories give the commands that they should, and a dry run prints what a shell takes."""

import os
import shlex
import subprocess
import sys
from argparse import Namespace
from itertools import pairwise

import pytest
from command_line import ROOT, run, run_here
from fairseq import options
from fairseq.models import FairseqLanguageModel
from recipe_options import experiment
from small_model import dictionary

from fairseq_infformer.cli import evaluate, inspection, simultaneous
from fairseq_infformer.models.configuration import with_defaults
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerConfig, InfiniteFormerLM
from fairseq_infformer.models.memformer_lm import MemformerConfig, MemformerLM
from recipes import memories
from recipes import run as recipe_run
from recipes.language_models.parameters import ffn_width
from recipes.memories import MEMORIES

OWN_OPTIONS = {
    "gpt2": ["--gpt2", "GPT2", "--raw", "RAW"],
    "pretrained": ["--smollm2", "--raw", "RAW"],
    "wikitext2": ["--raw", "RAW"],
    "books": ["--raw", "RAW"],
    "multi30k": ["--raw", "RAW"],
    "digits_speech": ["--raw", "RAW"],
}
# What is taken of each; the other recipes have memories.
FEW = {
    "pretrained": "finetuned,gibbs",
    "gpt2": "none,sticky",
    "multi30k": "transformer,found",
    "digits_speech": "bank,full",
}
EXTRAS = {"gpt2": "plot,hf", "pretrained": "plot,hf,gguf"}
RECIPES = sorted(file.parent.name for file in (ROOT / "recipes").glob("*/run.sh"))
SIZES = [(name, size) for name in RECIPES for size in experiment(name, *OWN_OPTIONS.get(name, [])).sizes]
# How many trainings come before those of the two models, and how many scores there may be of both.
TRAINED_BEFORE = {"multi30k": 1, "digits_speech": 2}
SCORES = {"digits_speech": (5, 25)}


def read_generate(words: list[str]) -> str:
    return options.parse_args_and_arch(options.get_generation_parser(), words).gen_subset


def read_eval(words: list[str]) -> str:
    return evaluate.build_parser().parse_args(words).split


def read_simultaneous(words: list[str]) -> str:
    return simultaneous.build_parser().parse_args(words).split


# What makes the scores of a split, and which split its arguments name.
SCORERS = {
    "multi30k": (".venv/bin/fairseq-generate", read_generate),
    "digits_speech": ("fairseq_infformer.cli.simultaneous", read_simultaneous),
}


@pytest.mark.parametrize(
    ("name", "size", "compressive", "none", "slots"),
    [
        ("wikitext2", "small", 1009, 1583, 706),
        ("wikitext103", "small", 1009, 1583, 706),
        ("wikitext103", "paper", 1896, 2714, 1471),
        ("books", "small", 897, 1407, 626),
        ("books", "paper", 2689, 4223, 1906),
    ],
)
def test_ffn_width_gives_every_memory_as_many_parameters(name, size, compressive, none, slots):
    """The widths are those of the trainings that RESULTS.md shows, whose folders resume with the same ones only."""
    made = experiment(name, "--size", size, *OWN_OPTIONS.get(name, []))
    widths = {}
    for memory in made.memories:
        words = made.training(memory, 1)
        widths[memory] = int(words[words.index("--decoder-ffn-embed-dim") + 1])
    assert widths == dict.fromkeys(made.memories, made.size.ffn) | {
        "compressive": compressive,
        "none": none,
        "heavy-hitters": none,
        "slots": slots,
    }


def test_ffn_width_counts_the_pointer_of_the_model():
    made = experiment("code", "--memory", "pointer,none")
    pointer, none = (made.training(memory, 1) for memory in ("pointer", "none"))
    widths = [int(words[words.index("--decoder-ffn-embed-dim") + 1]) for words in (pointer, none)]
    # A unit of the networks has 2 · 256 + 1 weights in each of 4 layers, the pointer 256² + 1.
    assert widths == [1375, 1407] and abs(4 * 513 * (widths[1] - widths[0]) - (256**2 + 1)) < 4 * 513


def test_another_memory_is_a_row_of_the_table(monkeypatch):
    """It is asked how many parameters it has, and every recipe takes it."""
    row = memories.Memory("wide", "", "", "", {"long-term-memory": "continuous", "ltm-basis": "512"})
    monkeypatch.setitem(MEMORIES, "wide", row)
    # Of each head 2 · 512 parameters of μ and σ instead of 2 · 64, and 2 · 288 + 1 for each unit that goes.
    assert ffn_width(288, 8, 1152, "wide", ["--ltm-basis", "64"]) == 1152 - (2 * 512 - 2 * 64) // 577
    made = experiment("sorting", "--memory", "none,wide")
    assert "--long-term-memory continuous --ltm-basis 512" in " ".join(made.training("wide", 1))


@pytest.mark.parametrize("name", ["recall", "sorting"])
def test_memories_with_several_segments_per_update_train_on_the_same_text(name):
    made = experiment(name, "--memory", "gibbs,gibbs-freq8,gibbs-bptt8")
    read = {}
    for memory in made.memories:
        given = dict(pairwise(made.training(memory, 1)))
        segments = int(given.get("--update-freq", 1)) * int(given.get("--bptt-segments", 1))
        read[memory] = int(given["--batch-size"]) * int(given["--max-update"]) * segments
    assert len(set(read.values())) == 1 and made.training("gibbs-bptt8", 1).count("--bptt-segments") == 1


def test_language_models_refuse_memories_with_several_segments_per_update(capsys):
    with pytest.raises(SystemExit):
        experiment("wikitext2", "--memory", "gibbs-bptt8", *OWN_OPTIONS["wikitext2"])
    assert "give --memory gibbs -- --bptt-segments 8" in capsys.readouterr().err


@pytest.mark.parametrize("segment", [128, 256])
@pytest.mark.parametrize("size", ["small", "gpu"])
def test_rows_of_pretrained_models_train_on_the_same_tokens_in_the_same_updates(size, segment):
    made = experiment("pretrained", "--smollm2", "--raw", "RAW", "--size", size, "--segment", segment)
    read, saves = set(), set()
    for row in made.memories:
        given = dict(pairwise(made.training(row, 1)))
        segments = int(given["--update-freq"]) * int(given["--bptt-segments"])
        read.add((int(given["--batch-size"]), segments * int(given["--tokens-per-sample"])))
        saves.add(made.save(row, 1))
        if row != "ceiling":
            assert int(given["--tokens-per-sample"]) == segment
            assert int(given["--stm-length"]) == segment + (made.size.vectors if row == "window" else 0)
    assert len(read) == 1 and len(saves) == len(made.memories)
    assert made.memory("gibbs") == made.memory("gibbs-bptt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --model DIR, the folder of a pretrained model, or --smollm2"),
        (["--smollm2", "--model", "DIR"], "--model and --smollm2 are two models; give one of them"),
        (["--model", "DIR"], "--model DIR has no config.json; give the folder of a pretrained model"),
        (["--smollm2", "--segment", "100"], "--segment must divide 512, the tokens of a stream per update, got 100"),
        (["--smollm2", "--splits", "train"], "--splits must be valid, test or valid,test, got train"),
        (["--smollm2", "--memory", "none"], "unknown memory none; choose from base,finetuned,window,compressive,"),
        (["--smollm2", "--dir", "new"], "give --raw, the folder of the novels"),
    ],
)
def test_pretrained_recipe_refuses_wrong_options(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    raw = [] if "--dir" in words else ["--raw", "RAW"]
    with pytest.raises(SystemExit):
        experiment("pretrained", *words, *raw)
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_dry_run_prints_commands_that_their_parsers_take(name, size, tmp_path, monkeypatch, capsys):
    differ = experiment(name, *OWN_OPTIONS.get(name, [])).differ
    few = [f"--{differ}", FEW.get(name, "none,memformer")]
    arguments = ["--size", size, *few, "--seeds", "7", "--dir", str(tmp_path / "a run")]
    environment = dict(os.environ)
    monkeypatch.setattr(sys, "argv", ["run", name, *arguments, *OWN_OPTIONS.get(name, []), "--dry-run"])
    monkeypatch.setattr(os, "environ", environment)
    if name in EXTRAS:
        monkeypatch.setattr("fairseq_infformer.models.pretrained_lm.read_config", lambda folder: "{}")
    recipe_run.main()
    printed = capsys.readouterr().out.splitlines()
    assert not list(tmp_path.iterdir())
    lines = [shlex.split(line) for line in printed if not line.startswith("#")]
    assert lines[0] == ["recipes/setup.sh", "--extras", EXTRAS.get(name, "plot")]
    scorer, split = SCORERS.get(name, (".venv/bin/infformer-eval", read_eval))
    trainings, scores = (
        [line[line.index(program) + 1 :] for line in lines if program in line]
        for program in (".venv/bin/fairseq-train", scorer)
    )
    assert len(trainings) == 2 + TRAINED_BEFORE.get(name, 0) and len(scores) in SCORES.get(name, (4, 6))
    for words in trainings:
        args = options.parse_args_and_arch(options.get_training_parser(), words)
        assert args.seed == 7 and args.save_dir.startswith(f"{tmp_path}/a run/")
    for words in scores:
        assert split(words[: words.index(">")]) in ("valid", "test")


def test_dry_run_prints_the_same_for_a_shell_elsewhere(tmp_path):
    words = [ROOT / "recipes/wikitext2/run.sh", "--dry-run", "--raw", "here", "--dir", "there", "--memory", "none"]
    printed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"preprocess/prepare.sh --raw {tmp_path}/here --dest {tmp_path}/there/data " in printed
    assert not list(tmp_path.iterdir())


def test_quickstart_prints_commands_in_a_dry_run(tmp_path):
    printed = run(ROOT / "recipes/quickstart.sh", "--dry-run", "--dir", tmp_path / "a run", "--updates", 7).stdout
    lines = [shlex.split(line) for line in printed.splitlines() if not line.startswith("#")]
    trainings = [line[3:] for line in lines if line[:3] == ["env", "OMP_NUM_THREADS=1", ".venv/bin/fairseq-train"]]
    scores = [line[1:] for line in lines if line[0] == ".venv/bin/fairseq-eval-lm"]
    assert len(trainings) == 2 and len(scores) == 3 and not list(tmp_path.iterdir())
    for words in trainings:
        assert options.parse_args_and_arch(options.get_training_parser(), words).max_update == 7
    for words in scores:
        options.parse_args_and_arch(options.get_eval_lm_parser(), words)
    [looking] = [line[3:] for line in lines if line[1:3] == ["-m", "fairseq_infformer.cli.inspection"]]
    assert inspection.build_parser().parse_args(looking).save == tmp_path / "a run/memory.html"


def test_run_answers_at_once():
    """Neither torch nor fairseq is imported for help and errors."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "recipes.run", "books", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "recipes.options" in modules and not modules & {"torch", "fairseq", "numpy"}
    assert "--raw DIR" in done.stdout and "sticky-fixed" in done.stdout


def test_a_recipe_that_does_not_exist_is_named():
    code, error = run_here(recipe_run.main, "sortin")
    assert code == 2 and error.startswith("error: unknown recipe sortin; choose from books, code, digits_speech, ")


def built(args: Namespace) -> FairseqLanguageModel:
    """The model that a training's arguments name, for a few words."""
    memformer = args.arch == "memformer_lm"
    model, config = (MemformerLM, MemformerConfig) if memformer else (InfiniteFormerLM, InfiniteFormerConfig)
    return model.build(with_defaults(args, config), dictionary())


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [("wikitext2", "small", (1, 3)), ("wikitext103", "paper", (5, 11)), ("books", "small", (1, 3))],
)
def test_memformer_stands_for_a_decoder_of_as_many_layers_and_parameters(name, size, layers):
    made = experiment(name, "--size", size, "--memory", "memformer,continuous", *OWN_OPTIONS.get(name, []))
    counts = {}
    for memory in made.memories:
        words = ["data", "--task", "streaming_language_modeling", *made.model_and_training(memory, 1)]
        args = options.parse_args_and_arch(
            options.get_training_parser(), [*words, "--adaptive-softmax-cutoff", "10,20"]
        )
        model = built(args)
        counts[memory] = sum(parameter.numel() for parameter in model.parameters())
        if memory == "memformer":
            assert (len(model.decoder.encoder), len(model.decoder.decoder)) == layers
            assert args.tokens_per_sample == made.size.segment
    assert counts["memformer"] == pytest.approx(counts["continuous"], rel=0.001)
