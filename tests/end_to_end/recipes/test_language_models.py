"""The recipes of language models run, refuse what cannot be, compare models of equal size, and sum up the scores."""

import json
import math
import os
import random
import shlex
import zipfile
from pathlib import Path

import pretrained_data
import pytest
from command_line import ENVIRONMENT, ROOT, as_flags, run, run_forked
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from small_pretrained import SIZES

from fairseq_infformer.models.infinite_former_lm import InfiniteFormerLM
from recipes import launches, runs
from recipes.language_models import summary
from recipes.memories import TABLE

# Bands for a dictionary of hundreds of words, and as few updates as are logged.
FEW = ["--", "--max-update", 10, "--decoder-layers", 1]
BANDS = ["--adaptive-softmax-cutoff", "50,100"]


def recipe(name: str) -> Path:
    return ROOT / "recipes" / name / "run.sh"


def articles(number: int) -> str:
    """WikiText's form: each article 22 lines, 20 of them of 30 words."""
    draw, text = random.Random(number), ""
    for title in range(number):
        lines = (" ".join(f"w{int(draw.expovariate(1) * 60)}" for _ in range(30)) for _ in range(20))
        text += f"\n = Title {title} = \n\n" + "".join(f" {line} \n" for line in lines)
    return text


@pytest.fixture(scope="module")
def wikitext(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wikitext")
    for split, number in (("train", 8), ("valid", 2), ("test", 2)):
        (folder / f"wiki.{split}.tokens").write_text(articles(number))
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def cells(table: str, memory: str) -> list[str]:
    return next([cell.strip() for cell in line.split("|")] for line in table.splitlines() if f"| {memory} " in line)


@pytest.mark.slow
def test_wikitext2_recipe_trains_and_scores_once(wikitext, tmp_path):
    """By the commands that a dry run prints; the recipe finds nothing left to do."""
    command = [recipe("wikitext2"), "--raw", wikitext, "--dir", tmp_path, "--memory", "none", "--stage"]
    printed = run(*command, 1, "--dry-run", *FEW, *BANDS).stdout
    done = run("bash", "-ec", printed, timeout=900)
    (found,) = results(tmp_path)["runs"]
    assert found["updates"] == 10 and found["test"]["tokens"] == 2 * (20 * 31 + 5 + 2)
    row = cells(done.stdout, "none")
    perplexities = [f"{found[name]['perplexity_per_word']:.2f}" for name in ("valid", "test")]
    assert f"{found['parameters']:,}" in row and row[-5:-1] == [*perplexities, "", ""]
    again = run(*command, 2, *FEW, *BANDS).stdout
    assert "is trained already" in again and "scoring" not in again


@pytest.mark.slow
def test_books_recipe_accepts_pg19_as_published_without_a_test_split(tmp_path):
    draw = random.Random(1)
    for split, books, lines in (("train", 3, 1000), ("validation", 2, 400)):
        (tmp_path / "raw" / split).mkdir(parents=True)
        for book in range(books):  # of so many words that 8,000 pieces can be learned
            words = ["".join(draw.choices("abcdefghijklmnopqrst", k=5)) for _ in range(10 * lines)]
            text = "\n".join(" ".join(words[place : place + 10]) for place in range(0, len(words), 10))
            (tmp_path / "raw" / split / f"{book}.txt").write_text(text + "\n")
    (tmp_path / "raw/metadata.csv").write_text("0,A Book,1901,http://example.org/0\n")
    done = run(
        recipe("books"),
        *as_flags(stage=1, raw=tmp_path / "raw", dir=tmp_path, memory="continuous"),
        *FEW,
        *as_flags(decoder_embed_dim=32),
        timeout=900,
    )
    splits = json.loads((tmp_path / "data/stats.json").read_text())["splits"]
    assert {split: count["documents"] for split, count in splits.items()} == {"train": 3, "valid": 2}
    found = results(tmp_path)
    (continuous,) = found["runs"]
    assert found["ablated"] == "valid" and continuous["test"] is None
    valid = continuous["valid"]
    assert valid["words"] == splits["valid"]["words"] < valid["tokens"] == splits["valid"]["tokens"]
    perplexities = [valid["perplexity_per_word"], valid["perplexity_per_token"]]
    perplexities += [continuous[name]["perplexity_per_word"] for name in ("zero", "swap")]
    assert len(set(perplexities)) == 4
    assert cells(done.stdout, "continuous")[-5:-1] == [f"{value:.2f}" for value in perplexities]


@pytest.mark.slow
def test_gpt2_recipe_fine_tunes_with_a_memory_and_without(wikitext, tmp_path):
    gpt2 = pretrained_data.write_model(tmp_path / "a gpt2", articles(1), architecture="gpt2")
    done = run(
        recipe("gpt2"),
        *as_flags(stage=1, gpt2=gpt2, raw=wikitext, dir=tmp_path / "run", size="small", memory="none,continuous"),
        "--",
        *as_flags(max_update=10, tokens_per_sample=16),
        timeout=900,
    )
    found = results(tmp_path / "run")
    assert found["command"] == (
        "recipes/gpt2/run.sh --size small --gpt2 GPT2 --documents wikitext --raw DIR --memory continuous,none "
        "--seeds 1 -- --max-update 10 --tokens-per-sample 16"
    )
    continuous, none = found["runs"]
    width, heads = SIZES["hidden_size"], SIZES["num_attention_heads"]
    per_layer = 3 * width**2 + 2 * 64 + 2 * heads + 1  # with the gate
    assert continuous["parameters"] - none["parameters"] == SIZES["num_hidden_layers"] * per_layer
    assert continuous["curve"]["nll_loss"] != none["curve"]["nll_loss"]
    assert cells(done.stdout, "none")[-3:-1] == ["", ""] and all(cells(done.stdout, "continuous")[1:-1])


def put_in_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Let these shell scripts be found before the programs of their names."""
    folder.mkdir()
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{folder}:{os.environ['PATH']}")


# curl … --output FILE URL, which gets $ARCHIVE.
CURL = 'while [ "$1" != --output ]; do shift; done; cp "$ARCHIVE" "$2"'


def test_download_refuses_what_was_not_published(tmp_path, monkeypatch):
    (tmp_path / "archive").write_text("not found")
    put_in_path(tmp_path / "bin", monkeypatch, curl=CURL)
    monkeypatch.setitem(ENVIRONMENT, "ARCHIVE", str(tmp_path / "archive"))
    command = [recipe("wikitext103"), "--stage", 1, "--stop-stage", 1, "--dir", tmp_path / "run"]
    done = run(*command, check=False)
    assert done.returncode == 2 and "the published one has 242ba0f20b32" in done.stdout
    assert not (tmp_path / "run/wikitext-103").exists()
    monkeypatch.setitem(ENVIRONMENT, "ARCHIVE", str(tmp_path / "nothing"))
    done = run(*command, check=False)
    assert done.returncode == 2 and "wikitext-103-v1.zip cannot be read; give --raw" in done.stdout


@pytest.mark.slow
def test_wikitext103_recipe_downloads_and_refuses_another_text_at_the_papers_size(wikitext, tmp_path, monkeypatch):
    published = "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        for file in wikitext.iterdir():
            archive.write(file, f"wikitext-103/{file.name}")
    put_in_path(tmp_path / "bin", monkeypatch, curl=CURL, sha256sum=f"cat > /dev/null; echo '{published}  -'")
    monkeypatch.setitem(ENVIRONMENT, "ARCHIVE", str(tmp_path / "archive"))
    command = [recipe("wikitext103"), "--dir", tmp_path / "run", "--memory", "none", "--stage", 1, "--stop-stage", 2]
    run(*command, "--size", "small", *FEW, *BANDS, timeout=900)
    stats = json.loads((tmp_path / "run/data/stats.json").read_text())
    assert stats["splits"]["train"]["documents"] == 8
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"data", "none-seed1", "wikitext-103"}
    assert runs.training(tmp_path / "run/none-seed1")["updates"] == 10
    done = run(*command, "--size", "paper", check=False)
    assert done.returncode == 2 and "error: this is not WikiText-103: " in done.stdout


def layer_parameters(command: str) -> int:
    """Parameters of one layer of the model that a fairseq-train command trains."""
    arguments = [*shlex.split(command), "--decoder-layers", "1"]
    if "--adaptive-input" in arguments or "infinite_former_lm_wt103" in arguments:
        arguments += ["--adaptive-softmax-cutoff", "10,20"]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments)).model
    words = Dictionary()
    for number in range(40):
        words.add_symbol(f"w{number}")
    return sum(parameter.numel() for parameter in InfiniteFormerLM.build(cfg, words).decoder.layers.parameters())


@pytest.mark.parametrize(
    "name, size, tasks, streams",
    [
        ("wikitext2", "small", 8, 8),
        ("wikitext103", "paper", 12, 5),
        ("books", "small", 8, 8),
        ("books", "paper", 8, 4),
    ],
)
def test_slurm_job_trains_all_memories_with_as_many_parameters_by_srun(
    tmp_path, monkeypatch, name, size, tasks, streams
):
    put_in_path(
        tmp_path / "bin", monkeypatch, srun='for word; do printf "%s " "$word"; done >> "$CALLS"; echo >> "$CALLS"'
    )
    job = {"SLURM_SUBMIT_DIR": ROOT, "SLURM_NTASKS": tasks, "SLURM_JOB_NUM_NODES": 2, "CALLS": tmp_path / "calls"}
    for variable, value in job.items():
        monkeypatch.setitem(ENVIRONMENT, variable, str(value))
    options = ["--size", size, "--dir", tmp_path / "run", "--stage", 2, "--stop-stage", 2]
    run(ROOT / "recipes/slurm.sh", name, *options)
    calls = (tmp_path / "calls").read_text().replace("(0.9,0.98)", "'(0.9,0.98)'").splitlines()
    assert len(calls) == len(TABLE) and all(call.startswith(f"--ntasks {tasks} ") for call in calls)
    assert all(f" --batch-size {streams} " in call for call in calls)
    parameters = {}
    for call in calls:
        memory = call.split("-seed1 ")[0].rsplit("/", 1)[1]
        parameters[memory] = layer_parameters(call.split("fairseq-train ", 1)[1])
    least, most = min(parameters.values()), max(parameters.values())
    assert len(parameters) == len(TABLE) and most < 1.001 * least, parameters


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("wikitext2", ["--size", "huge"], "unknown size huge; there is only small"),
        ("wikitext103", ["--size", "tiny"], "unknown size tiny; choose from small, paper"),
        ("books", ["--memory", "none,sticki"], "unknown memory sticki; choose from none,compressive,"),
        ("wikitext103", ["--nproc", 8], "--nproc 8 does not divide the batch of 60 streams"),
        ("books", ["--updates", 3], "unknown argument --updates; see --help"),
        ("books", ["--stage", 1], "give --raw, the folder of the text"),
        ("gpt2", ["--raw", "text"], "give --gpt2, the folder of a GPT-2"),
    ],
)
def test_language_model_recipes_refuse_wrong_options(tmp_path, name, arguments, message):
    done = run(recipe(name), "--dir", tmp_path, *arguments, check=False)
    assert done.returncode == 2 and f"error: {message}" in done.stdout


def test_slurm_job_refuses_an_unknown_recipe(monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "SLURM_SUBMIT_DIR", str(ROOT))
    done = run(ROOT / "recipes/slurm.sh", "--size", "paper", check=False)
    assert done.returncode == 2 and "the first argument must be a folder of recipes/" in done.stdout


def made_up(folder: Path, parameters: str, **perplexities: float | None) -> None:
    """A scored run; of each of its splits, the perplexity per word."""
    folder.mkdir(parents=True)
    launches.note(folder, ["fairseq-train"])
    point = '{"nll_loss": "2.5", "num_updates": "10", "wall": "60"}'
    (folder / "train.log").write_text(f"| num. shared model params: {parameters} (\n | train_inner | {point}\n")
    for name, value in perplexities.items():
        found = {"path": "x", "split": name, "tokens": 1000, "words": 1000, "perplexity_per_word": value, "seconds": 1}
        found["nll"] = value and 1000 * math.log(value)
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(found))


def test_summary_is_over_seeds_with_the_best_memory_last(tmp_path):
    made_up(tmp_path / "continuous-seed1", "1,001", valid=90, test=100, test_zero=120, test_swap=130)
    made_up(tmp_path / "continuous-seed2", "1,001", valid=92, test=104, test_zero=122, test_swap=130)
    made_up(tmp_path / "none-seed1", "1,000", valid=95, test=110)
    made_up(tmp_path / "sticky-seed1", "1,001", valid=50)  # not scored to its end
    lines = summary.table(summary.collect(tmp_path, "plays", "run.sh")).splitlines()
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:4]]
    continuous = ["91.00 ± 1.41", "102.00 ± 2.83", "121.00 ± 1.41", "130.00 ± 0.00"]
    assert found == [
        ["none", "1,000", "1", "10", "1.0 min", "1,000 + 1,000", "95.00", "110.00", "", ""],
        ["continuous", "1,001", "2", "10", "1.0 min", "1,000 + 1,000", *continuous],
    ]
    assert "sticky" not in "".join(lines)


def test_summary_accepts_a_perplexity_that_no_float_holds(tmp_path):
    """infformer-eval gives null for it, as JSON has no infinity."""
    made_up(tmp_path / "none-seed1", "1,000", valid=95, test=110)
    made_up(tmp_path / "continuous-seed1", "1,001", valid=90, test=None, test_zero=None, test_swap=130)
    first, second = summary.table(summary.collect(tmp_path, "plays", "run.sh")).splitlines()[2:4]
    assert [cell.strip() for cell in first.split("|")[7:-1]] == ["90.00", "∞", "∞", "130.00"]
    assert second.startswith("| none ")


def test_summary_has_the_share_of_headroom_where_a_long_window_was_scored(tmp_path):
    """Losses of log 100, log 80 and log 50: the memory gives ln 1.25 of ln 2."""
    for memory, test in (("none", 100), ("continuous", 80), ("none-1024", 50)):
        made_up(tmp_path / f"{memory}-seed1", "1,000", valid=95, test=test)
    table = summary.table(summary.collect(tmp_path, "plays", "run.sh"))
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[:5])
    assert header[-1] == "share"
    assert {row[0]: row[-1] for row in rows} == {"none": "", "continuous": "32.2 %", "none-1024": ""}


def test_summary_of_nothing_says_so(tmp_path):
    done = run_forked(
        "recipes.language_models.summary", tmp_path, "--corpus", "plays", "--command", "run.sh", check=False
    )
    assert done.returncode == 1 and "nothing was scored" in done.stdout
