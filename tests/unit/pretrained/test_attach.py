"""What a model computes with a memory, and what is refused."""

import pytest
import torch

pytest.importorskip("transformers")

from small_pretrained import (
    ARCHITECTURES,
    COMPRESSIVE,
    CONTINUOUS,
    GIBBS,
    GROUPED,
    SEGMENT,
    SIZES,
    attached,
    base,
    close,
    text,
)
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.memories import MEMORIES, ablate, register_memory
from fairseq_infformer.modules.memories.compressive import CompressiveMemory
from fairseq_infformer.modules.memories.compressive.memory import CompressiveSettings
from fairseq_infformer.modules.memories.continuous import ADDRESSINGS, DENSITIES
from fairseq_infformer.pretrained import attach, naive

SETTINGS = [
    {"memory": "none"},
    *(CONTINUOUS | {"density": density} for density in [*DENSITIES, "gibbs"]),
    *(CONTINUOUS | {"addressing": addressing} for addressing in ADDRESSINGS),
    GIBBS | {"sampling": "sticky-quantile"},
    *(COMPRESSIVE | {"function": function} for function in ("conv", "max")),
]


def loss(model, tokens):
    return model(tokens, labels=tokens).loss


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attach_starts_with_the_loss_of_the_baseline_to_the_bit(architecture):
    tokens = text(5 * SEGMENT + 3, rows=2)
    expected = loss(attached(architecture, memory="none"), tokens)
    for settings in [GIBBS, CONTINUOUS, COMPRESSIVE, GIBBS | {"start": "silent"}, CONTINUOUS | {"start": "silent"}]:
        model = attached(architecture, gate=None, **settings)
        assert torch.equal(loss(model, tokens), expected)
        assert torch.equal(loss(model.train(), tokens), expected)  # no memory's own term is in the loss
    assert not torch.equal(loss(attached(architecture, **GIBBS), tokens), expected)


@torch.no_grad()
@pytest.mark.parametrize("settings", SETTINGS)
def test_attach_equals_its_naive_twin(settings):
    model, tokens = attached(**settings), text(5 * SEGMENT + 3, rows=2)
    together = model(tokens).logits
    for row, logits in zip(tokens, together):
        close(logits, naive.logits(model, row))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("settings", [GIBBS, COMPRESSIVE])
def test_attach_equals_its_naive_twin_in_every_architecture(architecture, settings):
    model, tokens = attached(architecture, **settings), text(4 * SEGMENT)
    close(model(tokens).logits[0], naive.logits(model, tokens[0]))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(8, 3, 4), (4, 10, 1), (5, 0, 4), (40, 4, 4), (8, 8, 0), (4, 4, 6)])
def test_attach_equals_its_naive_twin_with_any_segment_and_window(sizes):
    segment, window, sinks = sizes
    model, tokens = attached(segment=segment, window=window, sinks=sinks, layers=[1], **GIBBS), text(33)
    close(model(tokens).logits[0], naive.logits(model, tokens[0]))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attach_gives_the_logits_of_the_model_as_far_as_its_window_reaches(architecture):
    tokens, model = text(2 * SEGMENT, rows=2), base(architecture)
    expected = model(tokens).logits
    reach = SEGMENT if architecture == "gpt2" else 2 * SEGMENT
    together = attach(model, segment=SEGMENT, **GIBBS)
    close(together(tokens).logits[:, :reach], expected[:, :reach])
    assert torch.equal(model(tokens).logits, expected)  # on its own, the model is what it was


@pytest.mark.parametrize("training", [True, False])
def test_attach_keeps_the_mode_the_weights_and_what_is_trained(training):
    model = base().train(training)
    model.model.norm.weight.requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    result = attach(model, segment=SEGMENT, **GIBBS)
    assert result.training == result.base.training == training
    after = {name.replace("self_attn.attention", "self_attn"): each for name, each in model.named_parameters()}
    assert all(torch.equal(after[name], parameter) for name, parameter in before.items())
    assert [name for name, each in after.items() if not each.requires_grad] == ["model.norm.weight"]


@pytest.fixture
def narrow():
    """A user's memory, whose heads divide the width of its vectors."""

    @register_memory("narrow", settings=CompressiveSettings)
    class Narrow(CompressiveMemory):
        @classmethod
        def build(cls, settings, embed_dim, num_heads, layer):
            return super().build(settings, embed_dim, num_heads, layer)

    yield {"memory": "narrow", "length": 6, "rate": 2}
    del MEMORIES["narrow"]


@torch.no_grad()
def test_attach_takes_a_memory_of_a_user(narrow):
    model, tokens = attached(**narrow), text(4 * SEGMENT)
    close(model(tokens).logits, attached(**COMPRESSIVE)(tokens).logits)
    with pytest.raises(InputError, match=r"memory must be another one, got 'narrow': .* 4 heads of width 16"):
        attached("qwen3", **narrow)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_copied_start_has_the_layers_own_projections(architecture):
    """Repeated where heads share keys and values; biases apart. Keys that the layer norms have about the same size."""
    model, hidden = attached(architecture, **GIBBS), torch.randn(1, 200, 32)
    for gated, layer in zip(model.memories.values(), model.attentions):
        read, own = gated.memory.attention, layer.projections
        zero = torch.zeros_like(hidden[:, :1])
        keys, values = (x - y for x, y in zip(own.keys_values(hidden), own.keys_values(zero)))
        groups = own.num_heads // own.split_heads(keys).shape[1]
        keys, values = (own.split_heads(x).repeat_interleave(groups, dim=1) for x in (keys, values))
        found = own.split_heads(read.k_proj(hidden))
        if architecture == "qwen3":
            close(torch.nn.functional.normalize(found, dim=-1), torch.nn.functional.normalize(keys, dim=-1))
            ratio = found.square().mean((0, 2, 3)) / keys.square().mean((0, 2, 3))
            assert bool(((ratio > 0.9) & (ratio < 1.1)).all())
        else:
            close(found, keys)
        close(own.split_heads(read.v_proj(hidden)), values)
        context = torch.randn(1, 5, own.num_heads * own.head_dim)
        close(read.out_proj(context), own.output(context) - own.output(torch.zeros_like(context)))


@torch.no_grad()
@pytest.mark.parametrize("settings", [GIBBS, COMPRESSIVE])
def test_ablate_zeroes_and_swaps_the_memories(settings):
    tokens = text(4 * SEGMENT, rows=2)
    own, none = attached(**settings)(tokens).logits, attached(memory="none")(tokens).logits
    for ablation in ("zero", "swap"):
        model = attached(**settings)
        for gated in model.memories.values():
            ablate(gated.memory, ablation)
        logits = model(tokens).logits
        assert not torch.allclose(logits, own)
        assert torch.equal(logits, none) == (ablation == "zero")


@torch.no_grad()
def test_forward_sees_no_later_tokens():
    tokens = text(4 * SEGMENT)
    other = tokens.clone()
    other[:, 21:] = text(4 * SEGMENT - 21, seed=1)
    for settings in (GIBBS, COMPRESSIVE):
        model = attached(**settings)
        logits, changed = model(tokens).logits, model(other).logits
        close(changed[:, :21], logits[:, :21])
        assert not torch.allclose(changed[:, 21:], logits[:, 21:])


@torch.no_grad()
def test_attached_in_half_precision_is_close_to_float32():
    tokens = text(5 * SEGMENT, rows=2)
    for settings in (GIBBS, CONTINUOUS, COMPRESSIVE):
        model = attached(**settings)
        expected = model(tokens).logits
        logits = model.bfloat16()(tokens).logits
        assert logits.dtype == torch.bfloat16
        # A few dozen roundings of half an epsilon of the largest value, in two layers.
        error = (logits.float() - expected).abs().max() / expected.abs().max()
        assert float(error) < 20 * torch.finfo(torch.bfloat16).eps


# ---- what does not fit ----------------------------------------------------------------------------------------------


def other(model_type, **settings):
    config = AutoConfig.for_model(model_type, **SIZES | settings)
    return AutoModelForCausalLM.from_config(config)


def squashed():
    """A model that puts its logits through a tanh, which the names of its projections do not say."""
    return other("gemma2", **GROUPED, head_dim=8, final_logit_softcapping=0.1)


WRONG = [
    (base, {"memory": "elephant"}, "memory must be one of none, .*continuous.*, got 'elephant'"),
    (base, {"bases": 16}, "the memory continuous has no setting 'bases'; it has basis, widths, "),
    (base, {"basis": 0}, "basis must be a positive multiple of the number of widths"),
    (base, {"widths": 0.1}, r"a setting of the memory continuous has a value of the wrong type .*, got widths=0\.1"),
    (base, {"segment": 0}, "segment must be a whole number, 1 or more, got 0"),
    (base, {"segment": 8.0}, r"segment must be a whole number, 1 or more, got 8\.0"),
    (base, {"window": -1}, "window must be a whole number, 0 or more, got -1"),
    (base, {"bptt_segments": 0}, "bptt_segments must be a whole number, 1 or more, got 0"),
    (base, {"layers": [0, 2]}, r"layers must be numbers in 0\.\.1, got \[0, 2\]"),
    (base, {"layers": 1}, r"layers must be numbers in 0\.\.1, got 1"),
    (base, {"layers": "01"}, r"layers must be numbers in 0\.\.1, got \['0', '1'\]"),
    (base, {"start": "loud"}, "start must be one of copied, silent, got 'loud'"),
    (
        base,
        {"segment": 40},
        r"segment \+ window \+ sinks must be at most 64, got 40 \+ 40 \+ 4: the model has 64 positions",
    ),
    (lambda: base("gpt2"), {"window": 8}, "window must be 0, got 8: the model's positions are learned"),
    (lambda: base("gpt2"), {"segment": 65}, r"at most 64, got 65 \+ 0 \+ 0"),
    (lambda: base("mistral", sliding_window=15), {}, r"at most 15, got 8 \+ 8 \+ 4: .*sliding_window"),
    (lambda: base().model, {}, "model must be a causal language model of transformers with its output layer"),
    (lambda: attached(), {}, "the InfformerForCausalLM has a memory already"),
    (lambda: attached().base, {}, "the LlamaForCausalLM has a memory already"),
    (lambda: other("bloom"), {}, "BloomForCausalLM is not supported: its 2 layers have 0 attentions with"),
    (lambda: base("gpt2", add_cross_attention=True), {}, "its 2 layers have 4 attentions"),
    (
        lambda: other("olmo2", **GROUPED),
        {},
        r"Olmo2ForCausalLM is not supported \(RuntimeError: .*\); give a model such",
    ),
    (squashed, {}, "Gemma2ForCausalLM is not supported: .* it computes something else"),
    (
        lambda: T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=32, num_layers=1)),
        {},
        "T5ForConditionalGeneration is not supported: it has an encoder",
    ),
]


@pytest.mark.parametrize(("make", "settings", "message"), WRONG)
def test_attach_refuses_in_one_line_and_leaves_the_model_unchanged(make, settings, message):
    model = make()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(InputError, match=message) as error:
        attach(model, **{"segment": SEGMENT} | settings)
    assert "\n" not in str(error.value)
    assert [name for name, _ in model.named_modules()] == names
