"""Training: gradients of the memory, through segments, and with the tools of ``transformers``."""

import pytest
import torch

pytest.importorskip("transformers")

from small_pretrained import ARCHITECTURES, COMPRESSIVE, CONTINUOUS, GIBBS, SEGMENT, attached, close, text
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from fairseq_infformer.modules.memories.continuous import ADDRESSINGS, DENSITIES
from fairseq_infformer.pretrained import naive

MEMORIES = [
    *(CONTINUOUS | {"density": density} for density in [*DENSITIES, "gibbs"]),
    *(CONTINUOUS | {"addressing": addressing} for addressing in ADDRESSINGS[1:]),
    COMPRESSIVE,
]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("start", ["copied", "silent"])
@pytest.mark.parametrize("settings", MEMORIES)
def test_every_parameter_of_a_memory_has_a_gradient_by_the_second_update(settings, start):
    """At first, gate or output are at zero, and what lies behind them has none."""
    model, tokens = attached(gate=None, start=start, **settings).train(), text(5 * SEGMENT, rows=2)
    optimizer = torch.optim.SGD(model.memories.parameters(), lr=1.0)
    seen = set()
    for _ in range(2):
        found = gradients(model, model(tokens, labels=tokens).loss)
        seen |= {name for name, grad in found.items() if "memories" in name and grad is not None and bool(grad.any())}
        optimizer.step()
    assert seen == {name for name, _ in model.named_parameters() if "memories" in name}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_through_all_segments_are_those_of_the_naive_twin(architecture):
    model, tokens = attached(architecture, bptt_segments=5, **GIBBS), text(5 * SEGMENT)
    loss = F.cross_entropy(naive.logits(model, tokens[0])[:-1], tokens[0, 1:])
    expected = gradients(model, loss)
    found = gradients(model, model(tokens, labels=tokens).loss)
    # Together, since the terms of a gate's gradient nearly cancel.
    close(*(torch.cat([each[name].flatten() for name in found]) for each in (found, expected)))


def test_bptt_segments_say_how_far_a_gradient_reaches():
    """From the last segment, which begins a group of its own if there are two groups of two."""
    tokens = text(4 * SEGMENT + 1)
    for segments, reach in ((1, 4), (2, 4), (3, 3), (5, 0)):
        model = attached(bptt_segments=segments, window=0, **GIBBS)
        embedded, embedding = [], model.get_input_embeddings()
        embedding.register_forward_hook(lambda *call, embedded=embedded: embedded.append(call[2]))
        logits = model(tokens).logits
        found = torch.autograd.grad(logits[:, -1].square().sum(), embedded)
        assert [bool(gradient.any()) for gradient in found] == [number >= reach for number in range(5)]


def test_write_just_before_a_segment_is_trained_whatever_bptt_segments():
    """What is written is cut off, but not what the memory does with it."""
    model, tokens, scale = attached(**GIBBS), text(4 * SEGMENT), torch.ones(1, requires_grad=True)
    for gated in model.memories.values():
        write = gated.memory.write
        gated.memory.write = lambda state, new, *more, write=write, **named: write(state, scale * new, *more, **named)
    model(tokens, labels=tokens).loss.backward()
    assert bool(scale.grad.any())


@pytest.mark.parametrize("settings", [GIBBS | {"bptt_segments": 2}, COMPRESSIVE | {"bptt_segments": 5}])
def test_gradient_checkpointing_gives_the_same_gradients(settings):
    model, tokens = attached(**settings).train(), text(5 * SEGMENT + 3, rows=2)
    expected = gradients(model, model(tokens, labels=tokens).loss)
    calls = []
    model.base.base_model.register_forward_pre_hook(lambda *call: calls.append(1))
    model.activation_checkpointing_enable()
    assert model.is_gradient_checkpointing
    found = gradients(model, model(tokens, labels=tokens).loss)
    close(*(torch.cat([each[name].flatten() for name in found]) for each in (found, expected)))
    assert len(calls) == 2 * 6  # each segment is run again in the backward pass
    model.activation_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize("settings", [GIBBS, CONTINUOUS, COMPRESSIVE])
def test_autocast_gives_gradients_close_to_those_of_float32(settings):
    model, tokens = attached(**settings).train(), text(5 * SEGMENT, rows=2)
    expected = gradients(model, model(tokens, labels=tokens).loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(model, model(tokens, labels=tokens).loss)
    actual, exact = (torch.cat([each[name].flatten() for name in expected]) for each in (found, expected))
    # A few dozen roundings of half an epsilon, which go either way.
    assert float((actual - exact).norm() / exact.norm()) < 10 * torch.finfo(torch.bfloat16).eps


def test_loss_is_the_mean_over_targets():
    """Of all segments; nothing is predicted from pads, and items of other batches count."""
    model, tokens = attached(**CONTINUOUS).train(), text(29, rows=2)
    mask = torch.ones_like(tokens)
    mask[1, :9] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    output = model(tokens, mask, labels=labels)
    whole = F.cross_entropy(output.logits[0, :-1], tokens[0, 1:], reduction="sum")
    padded = F.cross_entropy(output.logits[1, 9:-1], tokens[1, 10:], reduction="sum")
    torch.testing.assert_close(output.loss, (whole + padded) / (28 + 19))
    several = model(tokens, mask, labels=labels, num_items_in_batch=torch.tensor(100)).loss
    torch.testing.assert_close(several, (whole + padded) / 100)
    alone = model(tokens[1:, 9:], labels=tokens[1:, 9:]).loss
    torch.testing.assert_close(alone, padded / 19)


def test_terms_of_the_memory_are_in_the_gradient_of_the_loss():
    """The compression learns from its reconstruction error alone, as a mean over layers and tokens."""
    model, tokens = attached(**COMPRESSIVE).train(), text(4 * SEGMENT)
    name = "memories.1.memory.conv.weight"
    found = gradients(model, model(tokens, labels=tokens).loss)[name]
    half = gradients(model, model(tokens, labels=tokens, num_items_in_batch=2 * (4 * SEGMENT - 1)).loss)[name]
    assert bool(found.any())
    close(half, found / 2)
    repeated = tokens.repeat(3, 1)
    close(gradients(model, model(repeated, labels=repeated).loss)[name], found)


def test_frozen_base_trains_the_memory_alone(tmp_path):
    """As for PEFT, with the Trainer, in two updates of two batches each, with checkpointing."""
    model = attached(gate=None, **GIBBS)
    model.requires_grad_(False)
    model.memories.requires_grad_(True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = [{"input_ids": row, "labels": row} for row in text(5 * SEGMENT, rows=8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    with torch.no_grad():
        expected = model(rows[0]["input_ids"][None], labels=rows[0]["input_ids"][None]).loss
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(abs(loss - float(expected)) < 1 for loss in losses)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if "memories" in name}
