"""A pretrained GPT-2: its tokens, its logits, a memory that starts by changing nothing, and the way through."""

import json
import os
import re
import shutil
from pathlib import Path

import gpt2_folder
import numpy as np
import pytest
import torch
from command_line import TASK, as_flags, logged, one_error, run_here
from fairseq import options
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import train
from gpt2_folder import CONFIG, encode, reference, weights
from in_process import start
from safetensors.torch import load_file, save_file

from fairseq_infformer.cli import evaluate, export, prepare
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerLM

SENTENCES = [
    "the memory of the past",
    " = The Memory = ",
    "it's 1999, isn't it? \t",
    "",
    "naïve café — 日本 😀 <unk> </s>",
]
TEXT = "".join(
    f"{SENTENCES[number % 5]} {number}\n" if number % 5 < 3 else SENTENCES[number % 5] + "\n" for number in range(200)
)
MEMORY = ["--ltm-basis", 16, "--ltm-samples", 16, "--ltm-widths", "0.05,0.2"]
FLAGS = [
    *TASK,
    *MEMORY,
    *as_flags(
        arch="infinite_former_gpt2",
        dropout=0,
        attention_dropout=0,
        tokens_per_sample=16,
        batch_size=2,
        num_workers=0,
        disable_validation=True,
        log_interval=1,
        criterion="ltm_cross_entropy",
        optimizer="ltm_adam",
        lr=1e-3,
        log_format="simple",
        cpu=True,
    ),
]


def prepared(gpt2: Path, dest: Path, *more: object) -> Path:
    raw = dest.with_name(f"{dest.name}-raw")
    raw.mkdir(exist_ok=True)
    for name in ("train", "valid", "test"):
        (raw / name).write_text(TEXT if name == "train" else TEXT[: len(TEXT) // 8], encoding="utf-8")
    flags = ["--raw", raw, "--dest", dest, "--level", "gpt2", "--gpt2", gpt2, "--documents", "blank-line", *more]
    prepare.main([str(flag) for flag in flags])
    return dest


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    return gpt2_folder.write(tmp_path_factory.mktemp("gpt2") / "gpt2", TEXT)


@pytest.fixture(scope="module")
def data(gpt2, tmp_path_factory) -> Path:
    return prepared(gpt2, tmp_path_factory.mktemp("data") / "data")


def places(gpt2: Path, dictionary: Dictionary) -> list[int]:
    """For each of GPT-2's ids its place in the dictionary."""
    own = {"<|endoftext|>": dictionary.eos()}
    own |= {gpt2_folder.signs()[byte]: place for byte, place in ((0xC0, 0), (0xC1, 1), (0xF5, 3))}
    vocabulary = json.loads((gpt2 / "vocab.json").read_text())
    return [own[token] if token in own else dictionary.index(token) for token in vocabulary]


def built(gpt2: Path, data: Path, *more: object):
    """The trainer of ``fairseq-train``, and its first batches."""
    flags = [data, *FLAGS, "--gpt2", gpt2, "--save-dir", data.parent / "unused", *more]
    args = options.parse_args_and_arch(options.get_training_parser(), [str(flag) for flag in flags])
    return start(convert_namespace_to_omegaconf(args))


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_prepare_writes_the_tokens_of_gpt2_in_its_order(gpt2, data):
    vocabulary = json.loads((gpt2 / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (gpt2 / "merges.txt").read_text().splitlines()[1:]]
    dictionary = Dictionary.load(str(data / "dict.txt"))
    assert len(dictionary) == len(vocabulary)
    assert sorted(places(gpt2, dictionary)) == list(range(len(vocabulary)))
    assert [vocabulary[token] for token in dictionary.symbols[4:]] == sorted(
        vocabulary[token] for token in dictionary.symbols[4:]
    )
    ids = {place: number for number, place in enumerate(places(gpt2, dictionary))}
    lines = MMapIndexedDataset(str(data / "train"))
    text = TEXT.removesuffix("\n").split("\n")
    assert len(lines) == len(text)
    for line, tokens in zip(text, lines):
        assert [ids[token] for token in tokens.tolist()] == encode(line + "\n", vocabulary, merges)
    assert max(map(len, vocabulary)) > 5  # some merges are of merges


def test_prepare_counts_words_and_bytes_as_at_every_level(data):
    counts = json.loads((data / "stats.json").read_text())["splits"]["train"]
    lines = TEXT.count("\n")
    assert (counts["lines"], counts["words"]) == (lines, len(TEXT.split()) + lines)
    assert (counts["bytes"], counts["unknown"], counts["documents"]) == (len(TEXT.encode()), 0, 41)
    starts = np.load(data / "train.documents.npy")
    tokens = np.fromfile(data / "train.bin", dtype=np.uint16)
    line_end = Dictionary.load(str(data / "dict.txt")).index("Ċ")
    assert (tokens[starts[1:] - 1] == line_end).all() and len(tokens) == counts["tokens"]


def test_prepare_gives_the_same_data_with_any_number_of_workers(gpt2, data, tmp_path):
    other = prepared(gpt2, tmp_path / "two", "--workers", 2)
    assert (other / "train.bin").read_bytes() == (data / "train.bin").read_bytes()


# ---- logits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["none", "continuous"])
def test_model_starts_with_the_logits_and_losses_of_gpt2(memory, gpt2, data):
    """In every segment, with what was read before in the memory."""
    trainer, batches = built(gpt2, data, "--long-term-memory", memory, "--ltm-flat-start", "--optimizer", "adam")
    model, order = trainer.get_model().eval(), places(gpt2, trainer.task.dictionary)
    ids = torch.tensor(order).argsort()  # for each place in the dictionary GPT-2's id
    tensors = weights()
    for _, sample in zip(range(4), batches):
        logits, _ = model(**sample["net_input"])
        expected = reference(tensors, ids[sample["net_input"]["src_tokens"]])
        text = sample["target"].ne(trainer.task.dictionary.pad())
        error = (logits[..., order] - expected)[text].abs().max()
        assert float(error) < 1e-5 * float(expected.abs().max())  # float32, through sums of up to 128 products
        loss = torch.nn.functional.cross_entropy(expected[text], ids[sample["target"][text]])
        model.train()
        _, count, log = trainer.criterion(model, sample)
        model.eval()
        assert float(log["nll_loss"]) / count == pytest.approx(float(loss), rel=1e-5)
    if memory == "continuous":
        assert all(bool(state.long_term.coefficients.any()) for state in model.decoder.streams[False].after)


def test_model_reads_the_same_weights_from_older_files(gpt2, data, tmp_path):
    older = gpt2_folder.write(tmp_path / "older", TEXT, form="bin")
    models = [built(folder, data)[0].get_model().state_dict() for folder in (gpt2, older)]
    assert all(models[1][name].equal(tensor) for name, tensor in models[0].items() if "long_term" not in name)


@pytest.mark.parametrize("precision", [[], ["--bf16"]])
def test_ltm_adam_trains_new_weights_five_times_as_fast(precision, gpt2, data):
    """Adam's first update moves a weight by the learning rate."""
    trainer, batches = built(gpt2, data, "--clip-norm", 0, *precision)
    bias, read = (
        dict(trainer.get_model().named_parameters())[f"decoder.layers.1.{name}"]
        for name in ("attention.out_proj.bias", "long_term_memory.attention.out_proj.weight")
    )
    before = bias.detach().clone()
    trainer.train_step([next(batches)])
    assert float(read.abs().max()) == 0  # it has no gradient as long as nothing is remembered
    if not precision:  # a bias is not near zero, where bfloat16 is fine
        assert float((bias - before).abs().max()) == pytest.approx(1e-3, rel=1e-3)
    trainer.train_step([next(batches)])
    # A gradient that was zero in the first of two updates moves a weight by this much of the learning rate.
    beta, gamma = 0.9, 0.999
    share = (1 - beta) / (1 - beta**2) / ((1 - gamma) / (1 - gamma**2)) ** 0.5
    assert float(read.abs().max()) == pytest.approx(5 * 1e-3 * share, rel=1e-2)
    assert trainer.optimizer.get_lr() == 1e-3


# ---- the whole way --------------------------------------------------------------------------------------------------


def test_training_resumes_and_exports_without_the_folder(gpt2, tmp_path, capsys, caplog):
    folder = shutil.copytree(gpt2, tmp_path / "gpt2")
    data = prepared(folder, tmp_path / "data")

    def losses(save: str, *more: object) -> list[float]:
        caplog.clear()
        with caplog.at_level("INFO"):
            flags = [*FLAGS, "--save-dir", tmp_path / save, "--save-interval-updates", 2, *more]
            code, error = run_here(train.cli_main, data, *flags)
        assert code == 0, error
        return logged(
            "\n".join(f"| {record.name} | {record.message}" for record in caplog.records), "train_inner", "loss"
        )

    whole = losses("whole", "--max-update", 6, "--gpt2", folder)
    assert len(whole) == 6 and whole[-1] < whole[0]
    first = losses("parts", "--max-update", 4, "--gpt2", folder)
    shutil.rmtree(folder)
    sizes = ["--decoder-layers", 2, "--decoder-embed-dim", 32, "--decoder-ffn-embed-dim", 128]
    sizes += ["--decoder-attention-heads", 4, "--max-target-positions", gpt2_folder.POSITIONS]
    assert first + losses("parts", "--max-update", 6, *sizes) == whole

    checkpoint = tmp_path / "whole" / "checkpoint_last.pt"
    exported = tmp_path / "exported"
    export.main([str(data), "--path", str(checkpoint), "--dest", str(exported)])
    assert sorted(os.listdir(exported)) == ["config.json", "dict.txt", "merges.txt", "model.safetensors", "vocab.json"]
    assert str(tmp_path) not in (exported / "config.json").read_text()
    found = []
    for path in (checkpoint, exported):
        capsys.readouterr()
        assert run_here(evaluate.main, data, "--path", path, "--json", "--cpu")[0] == 0
        found.append(json.loads(capsys.readouterr().out))
        assert found[-1].pop("path") == str(path) and found[-1].pop("seconds") is not None
    assert found[0] == found[1]
    counts = json.loads((data / "stats.json").read_text())["splits"]["test"]
    assert (found[0]["tokens"], found[0]["words"]) == (counts["tokens"], counts["words"])
    assert found[0]["perplexity_per_word"] == pytest.approx(np.exp(found[0]["nll"] / counts["words"]))

    longer = run_here(evaluate.main, data, "--path", exported, "--cpu", "--tokens-per-sample", 25)
    assert longer[0] == 1 and "24 learned positions, too few for segments of 25 tokens" in one_error(longer[1])
    (exported / "merges.txt").write_text("")
    with pytest.raises(InputError, match=r"merges.txt is damaged, or was not exported"):
        InfiniteFormerLM.from_pretrained(exported)


# ---- what does not fit ----------------------------------------------------------------------------------------------


def configured(**changes: object):
    return lambda folder: (folder / "config.json").write_text(json.dumps(CONFIG | changes))


def reweighted(change):
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def without(name: str):
    return lambda folder: (folder / name).unlink()


def pickled(content: object):
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return damage


def fewer_tokens(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({f"{token}x": row for token, row in vocabulary.items()}))


class Unsafe:
    """Not a tensor: reading it could run anything."""


WRONG = [
    (shutil.rmtree, [], r"--gpt2 .* has no config.json; give the folder of a GPT-2 as Hugging Face publishes it"),
    (without("config.json"), [], r"has no config.json"),
    (without("vocab.json"), [], r"has no vocab.json"),
    (without("model.safetensors"), [], r"has neither model.safetensors nor pytorch_model.bin"),
    (lambda folder: (folder / "config.json").write_text("{"), [], r"config.json is damaged"),
    (
        lambda folder: (folder / "config.json").write_text("[]"),
        [],
        r"config.json is not a file that Hugging Face publishes",
    ),
    (configured(model_type="llama"), [], r"has model_type = 'llama', but only gpt2 is supported"),
    (configured(activation_function="mish"), [], r"activation_function = 'mish', but only gelu_new or"),
    (configured(layer_norm_epsilon=1e-6), [], r"layer_norm_epsilon = 1e-06, but only 1e-05"),
    (configured(tie_word_embeddings=False), [], r"tie_word_embeddings = False"),
    (configured(n_layer="two"), [], r"n_layer = 'two', which must be a positive integer"),
    (configured(n_layer=3), [], r"h.2.attn.c_proj.weight has shape None, but config.json implies \(32, 32\)|has shape"),
    (configured(n_layer=1), [], r"model.safetensors has h.1.*, which config.json does not imply"),
    (configured(n_embd=64), [], r"wte.weight has shape \(317, 32\), but config.json implies \(317, 64\)"),
    (configured(n_positions=8), [], r"8 learned positions, too few for segments of 16 tokens"),
    (lambda folder: os.truncate(folder / "model.safetensors", 5000), [], r"cannot be read as the weights of a GPT-2"),
    (reweighted(lambda t: t.pop("ln_f.bias")), [], r"ln_f.bias has shape None"),
    (reweighted(lambda t: t.update({"lm_head.weight": t["wte.weight"] + 1})), [], r"an untied output layer"),
    (pickled({"wte.weight": Unsafe()}), [], r"cannot be read as the weights of a GPT-2 \(UnpicklingError"),
    (pickled([1]), [], r"cannot be read as the weights of a GPT-2"),
    (fewer_tokens, [], r"dict.txt was not made from .*vocab.json; prepare the data with --level gpt2"),
    (None, ["--decoder-layers", 3], r"--decoder-layers is 3, but .*config.json implies 2; leave it out"),
    (
        None,
        ["--arch", "infinite_former_lm_tiny"],
        r"is 128, but .*config.json implies 32; leave it out, and give --arch",
    ),
    (None, ["--stm-length", 8], r"learned starts over in every segment.*--stm-length 0 instead of 8"),
    (None, ["--tokens-per-sample", 25], r"24 learned positions, too few for segments of 25 tokens"),
    (None, ["--long-term-memory", "none"], r"--optimizer ltm_adam needs weights of a long-term memory"),
    (None, ["--ltm-lr-scale", -1], r"--ltm-lr-scale must be 0 or more, got -1"),
]


@pytest.mark.parametrize(("damage", "flags", "message"), WRONG)
def test_training_refuses_a_folder_that_does_not_fit(damage, flags, message, gpt2, data, tmp_path):
    folder = shutil.copytree(gpt2, tmp_path / "gpt2")
    if damage:
        damage(folder)
    command = [data, *FLAGS, "--save-dir", tmp_path / "save", "--max-update", 1, "--gpt2", folder, *flags]
    code, text = run_here(train.cli_main, *command)
    assert code == 1
    assert re.search(message, one_error(text)), text
    assert not list(tmp_path.rglob("*.pt"))
