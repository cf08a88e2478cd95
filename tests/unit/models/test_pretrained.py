"""A model that was exported is the checkpoint's to the bit, and a directory that is not whole is refused."""

import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from command_line import ROOT
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from safetensors.torch import load_file, save_file
from small_model import TYPES, VARIANTS, build, dictionary, run, same_text

from fairseq_infformer import __version__
from fairseq_infformer.cli import evaluate, export
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerLM
from fairseq_infformer.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

ADAPTIVE = {
    "adaptive_input": True,
    "adaptive_softmax_cutoff": "10,20",
    "adaptive_input_factor": 2,
    "adaptive_softmax_factor": 2,
}
MODELS = [
    *VARIANTS,
    {"untie_embeddings": True},
    ADAPTIVE,
    ADAPTIVE | {"untie_embeddings": True, "adaptive_input_cutoff": "8,16"},
    ADAPTIVE | {"long_term_memory": "none", "position_encoding": "rope"},
]
FILES = ["config.json", "dict.txt", "model.safetensors"]


@pytest.fixture
def data(tmp_path) -> Path:
    """A data directory as far as an export needs one."""
    (tmp_path / "data").mkdir()
    dictionary().save(str(tmp_path / "data" / "dict.txt"))
    return tmp_path / "data"


def checkpoint(path: Path, model: InfiniteFormerLM) -> Path:
    """A checkpoint as fairseq writes it, the state of an optimizer included."""
    task = {"_name": "streaming_language_modeling", "data": "", "tokens_per_sample": 4, "document_boundaries": "ignore"}
    settings = dataclasses.asdict(model.decoder.cfg) | {"_name": "infinite_former_lm"}
    state = {
        "args": None,
        "cfg": {"task": task, "model": settings},
        "model": model.state_dict(),
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "num_updates": 7, "lr_scheduler_state": {}}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}, "secret": torch.zeros(100_000)},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(100_000)}}},
    }
    torch.save(state, path)
    return path


def exported(data: Path, model: InfiniteFormerLM) -> Path:
    source = checkpoint(data.parent / "checkpoint.pt", model)
    export.main([str(data), "--path", str(source), "--dest", str(data.parent / "exported")])
    return data.parent / "exported"


@pytest.mark.parametrize(
    ("settings", "half"), [*((settings, False) for settings in MODELS), *((settings, True) for settings in MODELS[-4:])]
)
def test_from_pretrained_has_the_logits_of_the_checkpoint_to_the_bit(settings, half, data):
    folder = exported(data, build(**settings).half() if half else build(**settings))
    task = StreamingLanguageModelingTask(StreamingLanguageModelingConfig(data=str(data)), dictionary())
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(folder.parent / "checkpoint.pt")], task=task)
    tokens = torch.randint(4, TYPES, (3, 24))
    reset, lengths = {2: [False, True, False]}, {3: [4, 2, 4]}

    read = InfiniteFormerLM.from_pretrained(folder)
    assert not read.training and read.decoder.dictionary == dictionary()
    logits = run(read, tokens, 4, reset, lengths)
    assert logits.equal(run(models[0].eval(), tokens, 4, reset, lengths))
    assert not logits.equal(run(build(seed=1, **settings), tokens, 4, reset, lengths))
    kept = load_file(folder / "model.safetensors")["decoder.final_norm.weight"]
    assert kept.dtype == (torch.float16 if half else torch.float32)


@pytest.mark.parametrize("settings", [{}, {"untie_embeddings": True}, ADAPTIVE])
def test_export_writes_each_weight_once_and_nothing_else(settings, data):
    model = build(**settings)
    folder = exported(data, model)
    assert sorted(os.listdir(folder)) == FILES
    assert sorted(os.listdir(folder.parent)) == ["checkpoint.pt", "data", "exported"]  # nothing is left beside
    tensors = load_file(folder / "model.safetensors")
    names = tensors.keys() & dict(model.named_parameters(remove_duplicate=False)).keys()
    assert sum(tensors[name].numel() for name in names) == sum(parameter.numel() for parameter in model.parameters())
    assert tensors.keys() - names <= dict(model.named_buffers()).keys()
    config = json.loads((folder / "config.json").read_text())
    assert config["version"] == __version__
    assert config["model"]["ltm_widths"] == "0.1,0.2"
    assert (folder / "model.safetensors").stat().st_mode == (folder / "dict.txt").stat().st_mode


def test_from_pretrained_reads_no_pickle_and_no_command_line(data, monkeypatch):
    folder = exported(data, build())

    def never(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr("sys.argv", ["notebook", "--task", "translation"])
    assert InfiniteFormerLM.from_pretrained(folder).decoder.dictionary_checksum


def test_from_pretrained_overrides_settings(data):
    folder, tokens = exported(data, build()), torch.randint(4, TYPES, (2, 24))
    longer = build(stm_length=9)
    longer.load_state_dict(build().state_dict())
    read = InfiniteFormerLM.from_pretrained(folder, stm_length=9)
    assert run(read, tokens, 4).equal(run(longer, tokens, 4))
    with pytest.raises(InputError, match="from_pretrained has the setting 'checkpoint_file', which this version"):
        InfiniteFormerLM.from_pretrained(folder, checkpoint_file="model.pt")


def test_export_includes_the_sentencepiece_model(data):
    text = [f"w{i} w{j}" for i in range(TYPES) for j in range(TYPES)]
    with (data / "sentencepiece.model").open("wb") as writer:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_writer=writer, vocab_size=30, minloglevel=2, hard_vocab_limit=False
        )
    with pytest.raises(InputError, match=r"dict.txt lacks \d+ of the \d+ pieces of .*sentencepiece.model"):
        exported(data, build())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(data / "sentencepiece.model"))
    symbols = [pieces.id_to_piece(number) for number in range(3, len(pieces))]
    words = (data / "dict.txt").read_text().splitlines()[len(symbols) :]
    (data / "dict.txt").write_text("".join(f"{line}\n" for line in [f"{symbol} 1" for symbol in symbols] + words))
    model = build()
    mine = InfiniteFormerLM.build(model.decoder.cfg, Dictionary.load(str(data / "dict.txt")))
    folder = exported(data, mine)
    assert (folder / "sentencepiece.model").read_bytes() == (data / "sentencepiece.model").read_bytes()
    (folder / "sentencepiece.model").unlink()
    with pytest.raises(InputError, match=r"sentencepiece.model is missing"):
        InfiniteFormerLM.from_pretrained(folder)


def of_config(change):
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def renoted(name: str, change):
    """Change a file, and the digest that config.json has of it."""

    def damage(folder: Path) -> None:
        change(folder / name)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        of_config(lambda config: config["sha256"].update({name: digest}))(folder)

    return damage


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def reword(file: Path) -> None:
    file.write_text(file.read_text().replace("w7 ", "other "))


def without(name: str):
    def change(file: Path) -> None:
        tensors = load_file(file)
        del tensors[name]
        save_file(tensors, file)

    return change


DAMAGES = {
    "none": (shutil.rmtree, "is not a folder with a config.json; make one from a checkpoint with infformer-export"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "is not a folder with a config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no dictionary": (lambda folder: (folder / "dict.txt").unlink(), "dict.txt is missing"),
    "half a config": (lambda folder: truncate(folder / "config.json"), r"config.json is damaged \("),
    "a config of bytes": (lambda folder: (folder / "config.json").write_bytes(b"\xff"), r"config.json is damaged \("),
    "a config that is a list": (lambda folder: (folder / "config.json").write_text("[]"), "has format None"),
    "another version": (
        of_config(lambda c: c.update(format=2)),
        "has format 2, but this version reads format 1; export",
    ),
    "no model": (of_config(lambda c: c.pop("model")), "lacks the section 'model'"),
    "unknown setting": (of_config(lambda c: c["model"].update(mystery=1)), "has the setting 'mystery', which this"),
    "wrong type": (
        of_config(lambda c: c["model"].update(decoder_layers="2")),
        "decoder_layers = '2'; it must be a whole number",
    ),
    "wrong choice": (of_config(lambda c: c["model"].update(position_encoding="sine")), "position_encoding = 'sine'"),
    "no width": (
        of_config(lambda c: c["model"].update(decoder_ffn_embed_dim=-1)),
        "--decoder-ffn-embed-dim must be 1 or more, got -1",
    ),
    "half the weights": (lambda folder: truncate(folder / "model.safetensors"), "model.safetensors is damaged"),
    "half the weights, noted": (renoted("model.safetensors", truncate), "cannot be read as safetensors"),
    "a tensor less": (
        renoted("model.safetensors", without("decoder.final_norm.bias")),
        "decoder.final_norm.bias has shape None",
    ),
    "another size": (
        of_config(lambda c: c["model"].update(decoder_ffn_embed_dim=8)),
        "decoder.layers.0.fc1.bias has shape",
    ),
    "other widths": (of_config(lambda c: c["model"].update(ltm_widths="0.1,0.3")), "build the model with"),
    "another dictionary": (
        lambda folder: reword(folder / "dict.txt"),
        "dict.txt is damaged, or was not exported together",
    ),
    "another dictionary, noted": (renoted("dict.txt", reword), "is not the one that the checkpoint was trained with"),
    "no dictionary of fairseq's": (renoted("dict.txt", lambda file: file.write_text("a b c\n")), "cannot be read as a"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_from_pretrained_refuses_a_damaged_directory(damage, data):
    folder = exported(data, build())
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        InfiniteFormerLM.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_export_refuses_what_does_not_fit(data, tmp_path):
    good = checkpoint(tmp_path / "good.pt", build())

    def refused(message: str, *, path: Path = good, dest: str = "new") -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=message) as error:
            export.main([str(data), "--path", str(path), "--dest", str(tmp_path / dest)])
        assert "\n" not in str(error.value)
        assert sorted(tmp_path.rglob("*")) == before

    def changed(change) -> Path:
        state = torch.load(good, weights_only=True)
        change(state)
        torch.save(state, tmp_path / "changed.pt")
        return tmp_path / "changed.pt"

    refused("does not exist; give a checkpoint", path=tmp_path / "none.pt")
    refused("--dest .* exists already; give a folder that is new or empty", dest="data")
    refused("--dest .* exists already", dest="good.pt")
    other = checkpoint(tmp_path / "other.pt", build(prefix="v"))
    refused("is not the one that the checkpoint was trained with", path=other)
    refused("with --task language_modeling", path=changed(lambda s: s["cfg"]["task"].update(_name="language_modeling")))
    refused(
        "was trained with --arch lstm_lm; give", path=changed(lambda s: s["cfg"].update(model={"_name": "lstm_lm"}))
    )
    refused("does not hold a model and its settings", path=changed(lambda s: s.update(model=None)))
    refused("does not hold a model and its settings", path=changed(lambda s: s.update(cfg=None)))
    refused("belongs to another model", path=changed(lambda s: s["model"].pop("decoder.final_norm.bias")))
    refused(
        "tokens_per_sample = 'x'; it must be a whole number",
        path=changed(lambda s: s["cfg"]["task"].update(tokens_per_sample="x")),
    )
    refused("stm_length = '.*HOME}'", path=changed(lambda s: s["cfg"]["model"].update(stm_length="${oc.env:HOME}")))
    (data / "dict.txt").unlink()
    refused("has no dict.txt")


def test_export_fills_an_empty_folder_and_removes_what_a_killed_export_left(data, tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported.partial" / "model.tmp").mkdir(parents=True)
    (tmp_path / "exported.partial" / "model.tmp" / "model.safetensors").write_bytes(b"half")
    assert sorted(os.listdir(exported(data, build()))) == FILES
    assert not (tmp_path / "exported.partial").exists()


def test_infformer_eval_scores_an_exported_model_as_its_checkpoint(documents, trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "exported"
    export.main([str(documents), "--path", str(trained[0]), "--dest", str(folder)])
    assert "parameters, 72 types" in capsys.readouterr().out
    found = []
    for path in (trained[0], folder):
        command = ["infformer-eval", str(documents), "--path", str(path), "--json", "--cpu", "--batch-size", "4"]
        monkeypatch.setattr("sys.argv", [*command, "--stm-length", "12", "--ablation", "swap"])
        evaluate.main()
        found.append(json.loads(capsys.readouterr().out))
        assert found[-1].pop("path") == str(path) and found[-1].pop("seconds") >= 0
    assert found[0] == found[1]


def test_infformer_eval_refuses_data_of_another_dictionary(documents, data, monkeypatch):
    folder = exported(data, build())
    monkeypatch.setattr("sys.argv", ["infformer-eval", str(documents), "--path", str(folder), "--cpu"])
    with pytest.raises(InputError, match=r"prepare\.sh --dict"):
        evaluate.main()


@pytest.mark.parametrize("settings", [{}, ADAPTIVE])
def test_docs_example_of_an_exported_model_runs(settings, data, monkeypatch, capsys):
    model = build(**settings)
    exported(data, model)
    monkeypatch.chdir(data.parent)
    section = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names := {})
    assert capsys.readouterr().out.count("\n") == 3  # what was exported, and the example's two lines
    # The same by hand: the whole text at once, with a short-term memory that misses none of it.
    tokens = torch.cat([names["text"][:, :-1], names["line"][None]], dim=1)
    width = names["line"].shape[0]
    expected = run(model, tokens, width)
    read = torch.cat([model(tokens[:, :width], segment=0)[0], names["following"][0]], dim=1)
    same_text(read, expected)
    alone = model(names["line"][None], segment=0, lengths=np.array([width]), reset=np.array([True]))[0]
    assert not torch.allclose(names["following"][0], alone, atol=1e-3)
