"""Checkpoints of an earlier version (see tests/data/old_checkpoints/README.md) resume, are scored and are exported."""

import json
import logging
import shutil

import pytest
import torch
from command_line import ROOT, TASK, as_flags, logged, run_here
from fairseq_cli import train
from small_model import build, run

from fairseq_infformer.cli import evaluate, export
from fairseq_infformer.errors import InputError

OLD = ROOT / "tests/data/old_checkpoints"
DATA = OLD / "data"
# What that version printed: the losses of updates 6 to 8, and the test split's nats.
LOSSES = {"continuous": [3.651, 2.985, 3.823], "compressive": [3.572, 3.04, 3.874]}
NATS = {"continuous": 189.02118301391602, "compressive": 193.09181022644043, "gpt2": 176.32393074035645}
FLAGS = TASK + as_flags(
    arch="infinite_former_lm_tiny",
    decoder_layers=1,
    decoder_embed_dim=8,
    decoder_ffn_embed_dim=8,
    decoder_attention_heads=2,
    stm_length=4,
    ltm_basis=8,
    ltm_samples=16,
    ltm_widths="0.1,0.2",
    compressive_length=4,
    criterion="ltm_cross_entropy",
    optimizer="adam",
    lr=1e-2,
    clip_norm=0.25,
    tokens_per_sample=8,
    batch_size=2,
    max_update=8,
    no_epoch_checkpoints=True,
    disable_validation=True,
    log_format="simple",
    log_interval=1,
    cpu=True,
)


@pytest.mark.parametrize("memory", LOSSES)
def test_training_resumes_an_old_checkpoint_within_its_epoch(memory, tmp_path, caplog):
    """No write of these segments of 8 leaves anything waiting, so a compressive memory resumes exactly."""
    shutil.copy(OLD / f"{memory}.pt", tmp_path / "checkpoint_last.pt")
    with caplog.at_level(logging.INFO):
        command = [DATA, *FLAGS, "--long-term-memory", memory, "--save-dir", tmp_path]
        code, error = run_here(train.cli_main, *command)
    assert code == 0, error
    log = "\n".join(f"| {record.name} | {record.message}" for record in caplog.records)
    assert logged(log, "train_inner", "num_updates") == [6, 7, 8]
    # Three places are printed; three updates of float32 weights differ by far less from processor to processor.
    assert logged(log, "train_inner", "loss") == pytest.approx(LOSSES[memory], abs=0.0011)
    assert "starts empty" not in log  # which a memory that was not found in the checkpoint does


@pytest.mark.parametrize("memory", NATS)
def test_infformer_eval_and_export_accept_an_old_checkpoint(memory, tmp_path, capsys):
    checkpoint, exported = OLD / f"{memory}.pt", tmp_path / "exported"
    export.main([str(DATA), "--path", str(checkpoint), "--dest", str(exported)])
    for path in (checkpoint, exported):
        capsys.readouterr()
        assert run_here(evaluate.main, DATA, "--path", path, "--batch-size", 1, "--json", "--cpu")[0] == 0
        # A sum over 62 tokens, each by sums of at most 16 products in float32, which rounds by 6e-8.
        assert json.loads(capsys.readouterr().out)["nll"] == pytest.approx(NATS[memory], rel=1e-5)


def test_load_memory_state_starts_missing_parts_of_an_old_checkpoint_empty():
    memory = torch.load(OLD / "compressive.pt", weights_only=True)["extra_state"]["train_iterator"]["memory"]
    settings = {"decoder_embed_dim": 8, "decoder_layers": 1, "stm_length": 4, "long_term_memory": "compressive"}
    decoder = build(**settings, compressive_length=4, compressive_rate=4).train().decoder
    decoder.load_memory_state(memory, number=0)
    restored = decoder.memory_state()
    assert len(restored) == len(memory) + 2
    assert restored["layers.0.memory.waiting.hidden"].shape == (2, 3, 8)
    assert restored["layers.0.memory.waiting.lengths"].tolist() == [0, 0]
    assert torch.equal(restored["layers.0.memory.slots.hidden"], memory["[0].long_term.slots.hidden"])
    assert torch.equal(restored["layers.0.short_term.hidden"], memory["[0].recent.hidden"])


@pytest.mark.parametrize(("memory", "other"), [("continuous", "compressive"), ("compressive", "continuous")])
def test_load_memory_state_refuses_an_old_checkpoint_of_another_memory(memory, other):
    saved = torch.load(OLD / f"{memory}.pt", weights_only=True)["extra_state"]["train_iterator"]["memory"]
    model = build(decoder_embed_dim=8, decoder_layers=1, stm_length=4, long_term_memory=other)
    with pytest.raises(InputError, match="the memories of checkpoint and model differ"):
        model.decoder.load_memory_state(saved, number=0)


NAMES = {
    "continuous": [
        "memory.coefficients",
        "memory.num_tokens",
        "memory.largest",
        "report.density.mean",
        "report.density.variance",
        "report.lengths",
    ],
    "compressive": [
        "memory.slots.hidden",
        "memory.slots.lengths",
        "memory.waiting.hidden",
        "memory.waiting.lengths",
        "memory.evicted",
        "memory.evicted_lengths",
        "report.error",
        "report.lengths",
    ],
}


@pytest.mark.parametrize("memory", NAMES)
def test_memory_state_has_the_names_of_its_format(memory):
    """A new name, or another, needs a new format and a way from the old one."""
    model = build(decoder_layers=1, long_term_memory=memory).train()
    run(model, torch.randint(4, 40, (2, 6)), 3)
    names = ["short_term.hidden", "short_term.lengths", *NAMES[memory]]
    assert model.memory_format == 1 and list(model.memory_state()) == [f"layers.0.{name}" for name in names]


def test_load_memory_state_refuses_a_later_format():
    model = build().train()
    run(model, torch.randint(4, 40, (2, 6)), 3)
    with pytest.raises(InputError, match="memory has format 2, but this version reads up to 1"):
        model.load_memory_state(model.memory_state(), number=2)
