"""Several segments in one sample: gradients reach from the loss of the last to what the first has written."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from joined_sample import SEGMENTS, WIDTH, losses, sample, slopes
from small_model import build, dictionary

from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy

MEMORIES: dict[str, dict[str, Any]] = {
    "none": {"long_term_memory": "none"},
    "continuous": {"ltm_kl_weight": 0.1},
    "fixed": {"ltm_contraction": "fixed"},
    "sticky": {"ltm_sampling": "sticky"},
    "mixed": {"ltm_addressing": "mixed"},
    "compressive": {"long_term_memory": "compressive", "compressive_length": 4, "compressive_rate": 2},
    "compressive mean": {
        "long_term_memory": "compressive",
        "compressive_length": 4,
        "compressive_rate": 2,
        "compressive_function": "mean",
    },
    "slots": {"long_term_memory": "slots", "slots_count": 3},
    "no short-term memory": {"stm_length": 0},
    "pointer": {"long_term_memory": "none", "pointer_length": 6},
}
DROPOUT = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2}
ADAPTIVE = {
    "adaptive_input": True,
    "adaptive_softmax_cutoff": "10,20,30",
    "adaptive_softmax_factor": 2,
    "adaptive_input_factor": 2,
}


def by_hand(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The cross-entropy of the sample, segment after segment, layer after layer."""
    decoder, inputs = model.decoder, batch["net_input"]
    total, states = torch.zeros(()), None
    for number in range(SEGMENTS):
        part = slice(number * WIDTH, (number + 1) * WIDTH)
        tokens, target = inputs["src_tokens"][:, part], batch["target"][:, part]
        lengths, reset = (torch.from_numpy(inputs[name][:, number]) for name in ("lengths", "reset"))
        x = decoder.embed_tokens(tokens) * decoder.embed_scale
        states = states or [layer.initial_state(x) for layer in decoder.layers]
        for index, layer in enumerate(decoder.layers):
            x, states[index] = layer(x, lengths, layer.advance(states[index], reset))
        logits = decoder.output_projection(decoder.final_norm(x))
        total = total + torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=dictionary().pad(), reduction="sum"
        )
    return total


@pytest.mark.parametrize("memory", ["none", "fixed", "compressive mean", "slots"])
def test_bptt_gradients_equal_a_loop_over_segments_and_layers(memory):
    model = build(ltm_kl_weight=0.0, **MEMORIES[memory]).train()
    loss, gradients = losses(model, sample())
    model.zero_grad()
    expected = by_hand(model, sample())
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "memory", ["none", "continuous", "fixed", "mixed", "compressive mean", "slots", "no short-term memory", "pointer"]
)
def test_bptt_gradients_equal_differences_of_the_loss(memory):
    model = build(**MEMORIES[memory]).train().double()
    # Most memories are float32: smaller steps would be lost in their rounding. Slots are as exact as the model, and
    # their biases, which are normalised, only 0.01 long.
    by_differences, by_gradients = slopes(model, 1e-6 if memory == "slots" else 1e-4)
    # Rounding of the memories, 1e-7 of a loss of 200, over the two steps is 0.1 at most.
    assert by_differences == pytest.approx(by_gradients, rel=0.01, abs=0.1)


@pytest.mark.parametrize("memory", MEMORIES)
def test_bptt_reaches_the_first_segment_through_memory(memory):
    """Words that the first segment alone has, in a row whose later segments alone are scored."""
    model = build(**MEMORIES[memory]).train()
    batch = sample()
    tokens = batch["net_input"]["src_tokens"]
    tokens[tokens < 10] = 10
    tokens[0, 2:5] = torch.tensor([4, 5, 6])
    tokens[1, 2:5] = torch.tensor([7, 8, 9])
    batch["target"][:, : 2 * WIDTH] = dictionary().pad()
    model.decoder.output_projection.weight = torch.nn.Parameter(model.decoder.output_projection.weight.detach().clone())
    _, gradients = losses(model, batch)
    embedded = gradients["decoder.embed_tokens.weight"].abs().sum(1)
    if memory != "none" or model.decoder.cfg.stm_length:
        assert (embedded[4:7] > 0).all()
    assert (embedded[7:10] == 0).all()  # row 1 starts anew in segment 2


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("settings", [{}, DROPOUT, DROPOUT | {"checkpoint_activations": True}], ids=str)
def test_replay_gradients_equal_those_of_bptt(memory, settings):
    model = build(**MEMORIES[memory], **settings).train().double()
    plain, replayed = (losses(model, sample(replayed=each)) for each in (False, True))
    # The sums of parameters' gradients over segments, and of the losses, are in another order.
    torch.testing.assert_close(replayed, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", [ADAPTIVE, ADAPTIVE | {"untie_embeddings": True}], ids=str)
@pytest.mark.parametrize("answers", [False, True])
def test_replay_gradients_equal_those_of_bptt_with_adaptive_softmax_and_answers(settings, answers):
    model = build(**settings).train().double()
    plain, replayed = (losses(model, sample(answers, each), answers) for each in (False, True))
    torch.testing.assert_close(replayed, plain, rtol=1e-12, atol=1e-12)


def test_replay_counts_the_answers_that_are_correct():
    model, criterion = build().train(), LtmCrossEntropy(SimpleNamespace(target_dictionary=dictionary()), answers=True)
    batch = sample(answers=True)
    correct = batch["target"].ne(dictionary().pad())
    batch["target"][correct] = model(**batch["net_input"])[0].argmax(-1)[correct]
    model.decoder.streams.clear()
    batch["net_input"]["replayed"] = True
    assert criterion(model, batch)[2]["correct"] == correct.sum() > 0


def test_bptt_of_one_segment_is_training_by_segments():
    """To the bit, though a sample of K segments has an axis more."""
    outputs = []
    for number_of_axes in (1, 2):
        model, batch = build().train(), sample()
        found = []
        for number in range(SEGMENTS):
            part = slice(number * WIDTH, (number + 1) * WIDTH)
            segment = {
                "src_tokens": batch["net_input"]["src_tokens"][:, part],
                "segment": number,
                "lengths": batch["net_input"]["lengths"][:, number],
                "reset": batch["net_input"]["reset"][:, number],
            }
            if number_of_axes == 2:
                segment |= {name: segment[name][:, None] for name in ("lengths", "reset")}
            found.append(model(**segment)[0])
        outputs.append(torch.cat(found, dim=1))
    assert torch.equal(*outputs)


def test_bptt_logits_equal_those_of_segments_one_by_one():
    model, batch = build().train(), sample()
    together = model(**batch["net_input"])[0]
    model.decoder.streams.clear()
    for number in range(SEGMENTS):
        part = slice(number * WIDTH, (number + 1) * WIDTH)
        inputs = batch["net_input"]
        alone, _ = model(
            inputs["src_tokens"][:, part],
            segment=number,
            lengths=inputs["lengths"][:, number],
            reset=inputs["reset"][:, number],
        )
        assert torch.equal(together[:, part], alone)


def test_bptt_ends_at_the_sample():
    """The next sample starts from what this one has written, without its gradients."""
    model, batch = build().train(), sample()
    model(**batch["net_input"])
    for state in model.decoder.streams[True].after:
        assert not any(part.requires_grad for part in (state.recent.hidden, state.long_term.coefficients))
    batch["net_input"] |= {"segment": 1, "reset": np.zeros_like(batch["net_input"]["reset"])}
    loss, _, _ = LtmCrossEntropy(SimpleNamespace(target_dictionary=dictionary()))(model, batch)
    loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("replayed", [False, True])
def test_bptt_in_half_precision_has_finite_gradients_for_every_weight(dtype, replayed):
    model = build().train().to(dtype)
    loss, gradients = losses(model, sample(replayed=replayed))
    assert loss.dtype == torch.float32
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())
    state = model.decoder.streams[True].after[0]
    assert state.long_term.coefficients.dtype == torch.float32
