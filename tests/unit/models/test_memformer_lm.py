"""Memformer: what its encoder, memory and decoder see, and how it learns through several segments."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from joined_sample import SEGMENTS, WIDTH, losses, sample, slopes
from small_model import TYPES, build_memformer, dictionary, run, same_text
from torch import Tensor

from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy
from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.memories.slots import naive
from fairseq_infformer.modules.state import named_tensors

DROPOUT = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2}
ADAPTIVE = {
    "adaptive_input": True,
    "adaptive_softmax_cutoff": "10,20,30",
    "adaptive_softmax_factor": 2,
    "adaptive_input_factor": 2,
}


def text(rows: int = 3, length: int = 4 * WIDTH) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(4, TYPES, size=(rows, length)))


def by_hand(model: Any, batch: dict[str, Any]) -> list[Tensor]:
    """The cross-entropy of each segment: row after row, with slots one by one, and no row beside another."""
    decoder, inputs = model.decoder, batch["net_input"]
    total = [torch.zeros((), dtype=torch.float64) for _ in range(SEGMENTS)]
    for row in range(len(batch["target"])):
        slots, encoded, before = None, None, None
        for number in range(SEGMENTS):
            if inputs["reset"][row, number]:
                slots, encoded, before = None, None, None
            part = slice(number * WIDTH, number * WIDTH + int(inputs["lengths"][row, number]))
            tokens, target = inputs["src_tokens"][row, part], batch["target"][row, part]
            if encoded is not None and len(encoded):
                slots = naive.write(slots or naive.initial_slots(decoder.writer), encoded, decoder.writer)
            encoded = encode(decoder, before, slots) if before is not None and len(before) else None
            if len(tokens):
                x = decoder.embed_tokens(tokens)[None] * decoder.embed_scale
                read = torch.zeros_like(x) if encoded is None else encoded[None]
                for layer in decoder.decoder:
                    x = layer(x, read, torch.tensor([0 if encoded is None else len(encoded)]))
                logits = decoder.output_projection(decoder.final_norm(x))[0]
                total[number] = total[number] + torch.nn.functional.cross_entropy(logits, target, reduction="sum")
            before = tokens
    return total


def encode(decoder: Any, tokens: Tensor, slots: list[Tensor] | None) -> Tensor:
    x = (decoder.embed_tokens(tokens) * decoder.embed_scale)[None]
    everything = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for layer in decoder.encoder:
        hidden = layer.attention_norm(x)
        x = x + layer.attention(layer.q_proj(hidden), hidden, everything)
        if slots is not None:
            x = x + naive.read(layer.memory_q_proj(layer.memory_norm(x[0])), slots, layer.reader)
        x = x + layer.fc2(torch.relu(layer.fc1(layer.ffn_norm(x))))
    return decoder.encoder_norm(x[0])


def test_loss_and_gradients_are_those_of_the_model_by_hand():
    """The losses of all segments count alike, which public code weighted with powers of two."""
    model = build_memformer().train().double()
    loss, gradients = losses(model, sample())
    model.zero_grad()
    expected = sum(by_hand(model, sample()))
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-10)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-9, msg=name)


def test_gradients_equal_differences_of_the_loss():
    model = build_memformer().train().double()
    by_differences, by_gradients = slopes(model, 1e-6)
    assert by_differences == pytest.approx(by_gradients, rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, DROPOUT, DROPOUT | {"checkpoint_activations": True}, ADAPTIVE, ADAPTIVE | {"untie_embeddings": True}],
    ids=str,
)
@pytest.mark.parametrize("answers", [False, True])
def test_replay_gives_the_losses_and_gradients_of_bptt(settings, answers):
    """Dropout too, of every segment, which public code did not replay."""
    model = build_memformer(**settings).train().double()
    plain, replayed = (losses(model, sample(answers, each), answers) for each in (False, True))
    torch.testing.assert_close(replayed, plain, rtol=1e-12, atol=1e-12)


def test_replay_runs_the_decoder_once_and_the_encoder_twice():
    model, runs = build_memformer().train(), Counter()
    parts = {"encoder": model.decoder.encoder[0], "writer": model.decoder.writer.q_proj}
    parts |= {"decoder": model.decoder.decoder[0], "output": model.decoder.output_projection}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: runs.update([name]))
    losses(model, sample(replayed=True))
    assert runs == {"encoder": 2 * SEGMENTS, "writer": 2 * SEGMENTS, "decoder": SEGMENTS, "output": SEGMENTS}


def test_loss_reaches_what_the_first_segment_wrote():
    """Two segments later the decoder sees it through the memory alone; in a row that starts anew it does not."""
    model, batch = build_memformer(untie_embeddings=True).train(), sample()
    tokens = batch["net_input"]["src_tokens"]
    tokens[tokens < 10] = 10
    tokens[0, 2:5], tokens[1, 2:5] = torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9])
    batch["target"][:, : 2 * WIDTH] = dictionary().pad()
    embedded = losses(model, batch)[1]["decoder.embed_tokens.weight"].abs().sum(1)
    assert (embedded[4:7] > 0).all() and (embedded[7:10] == 0).all()


def test_criterion_gives_every_parameter_a_gradient_in_the_first_segment():
    for settings in ({}, ADAPTIVE, {"ltm_layers": "1"}, {"long_term_memory": "none"}):
        model = build_memformer(**settings).train()
        out = {
            "net_input": {"src_tokens": text(length=WIDTH), "segment": 0},
            "target": text(length=WIDTH),
            "ntokens": 15,
        }
        LtmCrossEntropy(SimpleNamespace(target_dictionary=dictionary()))(model, out)[0].backward()
        assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_one_segment_per_sample_trains_the_writer():
    model = build_memformer().train()
    for number in range(3):
        model.zero_grad()
        model(text(length=WIDTH), segment=number)[0].square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.decoder.writer.parameters())


def test_logits_are_causal_within_a_segment_and_see_all_before_it():
    model, tokens = build_memformer(), text()
    before = run(model, tokens, WIDTH)
    for changed in (2 * WIDTH, 2 * WIDTH + 2):
        other = tokens.clone()
        other[:, changed] = 4 + (other[:, changed] - 3) % (TYPES - 4)
        after = run(model, other, WIDTH)
        assert torch.equal(before[:, :changed], after[:, :changed])
        assert (before[:, changed:] != after[:, changed:]).any(-1).all()


def test_rows_are_independent_to_the_bit_and_a_reset_row_starts_anew():
    model, tokens = build_memformer(), text()
    other = tokens.clone()
    other[1] = other[1].flip(0)
    before, after = run(model, tokens, WIDTH), run(model, other, WIDTH, reset={2: [False, True, False]})
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    same_text(after[1:2, 2 * WIDTH :], run(model, other[1:2, 2 * WIDTH :], WIDTH))


def test_pads_change_nothing():
    model, tokens, lengths = build_memformer(), text(), {0: [5, 3, 0], 1: [0, 5, 5], 2: [5, 1, 5], 3: [2, 5, 4]}
    pads = torch.cat([torch.arange(WIDTH) >= torch.tensor(lengths[number])[:, None] for number in range(4)], dim=1)
    before = run(model, tokens, WIDTH, lengths=lengths)
    after = run(model, tokens.masked_fill(pads, 1), WIDTH, lengths=lengths)
    assert torch.equal(before[~pads], after[~pads]) and after.isfinite().all()


def test_ablations_change_what_is_read_from_the_third_segment_on():
    tokens = text()
    own, zero, swap = (run(build_memformer(ltm_ablation=name), tokens, WIDTH) for name in ("none", "zero", "swap"))
    for other in (zero, swap):
        assert torch.equal(own[:, : 2 * WIDTH], other[:, : 2 * WIDTH])
        assert not torch.allclose(own[:, 2 * WIDTH :], other[:, 2 * WIDTH :], atol=1e-4)
    with pytest.raises(InputError, match="batch has one; give --batch-size 2 or more"):
        run(build_memformer(ltm_ablation="swap"), tokens[:1], WIDTH)


def test_memory_state_resumes_to_the_bit():
    model, tokens = build_memformer().train(), text()
    segments = tokens.split(WIDTH, dim=1)
    for number in range(3):
        model(segments[number], segment=number)
    saved = {name: tensor.clone() for name, tensor in model.memory_state().items()}
    expected = model(segments[3], segment=3)[0]
    other = build_memformer().train()
    other.load_memory_state(saved)
    assert torch.equal(other(segments[3], segment=3)[0], expected)
    assert {name.rpartition(".")[2] for name in saved} >= {"slots", "encoded", "text"}


def test_half_precision_is_close_to_float32_and_keeps_slots_in_float32():
    model, tokens = build_memformer(), text()
    exact = run(model, tokens, WIDTH)
    found = run(model.to(torch.bfloat16), tokens, WIDTH)
    # Some thirty roundings, each of half an epsilon of the largest value.
    torch.testing.assert_close(
        found.float(), exact, rtol=0, atol=30 * torch.finfo(torch.bfloat16).eps * float(exact.abs().max())
    )
    state = model.decoder.streams[False].after[0]
    assert state.memory.slots.dtype == torch.float32 and named_tensors(state)["encoded"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots_count": 0}, "--slots-count must be 1 or more, got 0"),
        ({"slots_temperature": 0.0}, "--slots-temperature must be positive, got 0.0"),
        ({"encoder_layers": 0}, "--encoder-layers must be 1 or more, got 0"),
        ({"decoder_attention_heads": 3}, "--decoder-embed-dim must be a multiple of --decoder-attention-heads"),
        ({"long_term_memory": "continuous"}, "--long-term-memory of memformer_lm must be slots or none"),
        ({"ltm_layers": "2"}, r"--ltm-layers must lie in 0\.\.1, got 2"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_memformer(**settings)
