"""What the decoder promises about its memory: nothing leaks, nothing is lost, nothing is written twice."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from small_model import TYPES, VARIANTS, build, dictionary, run, same_text

from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.architectures import infinite_former_lm_wt103
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerConfig, InfiniteFormerLM


@pytest.fixture
def tokens():
    return torch.randint(4, TYPES, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", VARIANTS)
def test_logits_are_causal(settings, tokens):
    model = build(**settings)
    before = run(model, tokens, 4)
    for place in (2, 9, 20):
        changed = tokens.clone()
        changed[:, place] = 4 + (changed[:, place] - 3) % (TYPES - 4)
        after = run(model, changed, 4)
        assert after[:, :place].equal(before[:, :place])
        assert not after[:, place].equal(before[:, place])


def test_logits_depend_on_long_ago_with_a_long_term_memory(tokens):
    far = 23  # short-term memory and segment see 6 tokens a layer: 12 back at most
    changed = tokens.clone()
    changed[:, 1] = 4 + (changed[:, 1] - 3) % (TYPES - 4)
    for memory, differs in (("continuous", True), ("compressive", True), ("none", False)):
        model = build(long_term_memory=memory)
        assert (not run(model, changed, 4)[:, far].equal(run(model, tokens, 4)[:, far])) == differs


@pytest.mark.parametrize("settings", VARIANTS)
def test_logits_of_rows_are_independent(settings, tokens):
    model = build(**settings)
    before = run(model, tokens, 4)
    changed = tokens.clone()
    changed[1] = changed[1].flip(0)
    after = run(model, changed, 4, reset={2: [False, True, False]}, lengths={3: [4, 2, 4]})
    # Rows with operators of their own go through another matrix product, whose rounding differs.
    same_text(after[[0, 2]], before[[0, 2]])
    assert not torch.allclose(after[1], before[1], atol=1e-2)


@pytest.mark.parametrize("settings", VARIANTS)
def test_reset_hides_the_previous_document(settings, tokens):
    model = build(**settings)
    whole = run(model, tokens, 4, reset={3: [True, False, True]})
    alone = run(model, tokens[:, 12:], 4)
    same_text(whole[[0, 2], 12:], alone[[0, 2]])
    assert not torch.allclose(whole[1, 12:], alone[1], atol=1e-3) or settings.get("long_term_memory") == "none"


@pytest.mark.parametrize("settings", VARIANTS)
def test_logits_ignore_pads(settings, tokens):
    model = build(**settings)
    lengths, reset = {1: [4, 2, 4]}, {2: [False, True, False]}
    padded = tokens.clone()
    padded[1, 6:8] = 1
    assert run(model, padded, 4, reset, lengths)[[0, 2]].equal(run(model, tokens, 4, reset, lengths)[[0, 2]])
    same_text(run(model, padded, 4, reset, lengths)[1, 8:], run(model, tokens[:, 8:], 4)[1])


def test_logits_do_not_depend_on_segment_length_while_the_short_term_memory_holds_all(tokens):
    model = build(long_term_memory="none", stm_length=24)
    for length in (5, 8, 24):
        same_text(run(model, tokens, length), run(model, tokens, 1))


def test_forward_twice_writes_once(tokens):
    model = build()
    once = run(model, tokens, 4)
    twice = []
    for number, segment in enumerate(tokens.split(4, dim=1)):
        for _ in range(2):
            logits = model(segment, segment=number, lengths=np.full(3, 4), reset=np.full(3, number == 0))[0]
        twice.append(logits)
    assert torch.cat(twice, dim=1).equal(once)


@pytest.mark.parametrize("sampling", ["sticky", "sticky-quantile"])
def test_sticky_sampling_depends_on_attention_and_repeats(sampling, tokens):
    sticky = run(build(ltm_sampling=sampling), tokens, 4)
    assert sticky.equal(run(build(ltm_sampling=sampling), tokens, 4))
    assert not sticky.equal(run(build(), tokens, 4))


def test_training_and_evaluation_keep_separate_memories(tokens):
    model = build()
    alone = run(model, tokens, 4)
    mixed = []
    for number, segment in enumerate(tokens.split(4, dim=1)):
        mixed.append(model(segment, segment=number, lengths=np.full(3, 4), reset=np.full(3, number == 0))[0])
        model.train()
        model(segment.flip(0), segment=number, lengths=np.full(3, 4), reset=np.full(3, number == 0))
        model.eval()
    assert torch.cat(mixed, dim=1).equal(alone)


def test_state_dict_holds_no_memory(tokens):
    model = build()
    names = set(model.state_dict())
    run(model, tokens, 4)
    assert set(model.state_dict()) == names
    copy.deepcopy(model)  # what averaging of weights does: a memory with gradients could not be copied


def test_activation_checkpointing_keeps_the_gradients(tokens):
    gradients = []
    for save_memory in (False, True):
        model = build(checkpoint_activations=save_memory, dropout=0.1).train()
        torch.manual_seed(3)
        run(model, tokens, 8).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)


ADAPTIVE = {
    "adaptive_input": True,
    "adaptive_softmax_cutoff": "10,20,30",
    "adaptive_input_factor": 2,
    "adaptive_softmax_factor": 2,
}


@pytest.mark.parametrize("settings", [*VARIANTS, ADAPTIVE, ADAPTIVE | {"untie_embeddings": True}])
def test_criterion_gives_every_parameter_a_gradient_in_the_first_segment(settings):
    """DistributedDataParallel waits for all of them, though the memory is empty and most bands have no word here."""
    model = build(**settings).train()
    tokens = torch.randint(4, 15, (3, 5), generator=torch.Generator().manual_seed(1))
    first = {"segment": 0, "lengths": np.full(3, 4), "reset": np.full(3, True)}
    sample = {"net_input": {"src_tokens": tokens[:, :-1]} | first, "target": tokens[:, 1:], "ntokens": 12}
    criterion = LtmCrossEntropy(SimpleNamespace(target_dictionary=dictionary()))
    criterion(model, sample)[0].backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("settings", [{}, ADAPTIVE, {"long_term_memory": "compressive"}])
@pytest.mark.parametrize("answered", [[(0, 1), (2, 3), (2, 0)], []])
def test_criterion_computes_only_the_answers(settings, answered):
    model = build(**settings).train()
    tokens = torch.randint(4, 15, (3, 5), generator=torch.Generator().manual_seed(1))
    target = torch.full((3, 4), dictionary().pad())
    for row, place in answered:
        target[row, place] = tokens[row, place + 1]
    first = {"segment": 0, "lengths": np.full(3, 4), "reset": np.full(3, True)}
    sample = {"net_input": {"src_tokens": tokens[:, :-1]} | first, "target": target, "ntokens": len(answered)}
    found = []
    for answers in (False, True):
        task = SimpleNamespace(target_dictionary=dictionary())
        criterion = LtmCrossEntropy(task, answers=answers)
        model.zero_grad()
        loss, _, log = criterion(model, sample)
        loss.backward()
        found.append([loss, {name: parameter.grad for name, parameter in model.named_parameters()}])
    torch.testing.assert_close(*found)
    assert len(criterion.output(model, sample)[0]) == len(answered)
    everywhere = model.get_normalized_probs(model(**sample["net_input"]), log_probs=True).argmax(-1)
    right = sum(int(everywhere[row, place] == target[row, place]) for row, place in answered)
    assert int(log["correct"]) == right


def test_position_encodings_give_different_logits(tokens):
    logits = []
    for encoding in ("xl", "rope", "alibi"):
        model = build(position_encoding=encoding)
        model.load_state_dict(build().state_dict() | model.state_dict(), strict=False)
        logits.append(run(model, tokens, 4))
    assert not any(torch.allclose(logits[i], logits[j], atol=1e-2) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_ablation_swap_refuses_a_single_row(tokens):
    with pytest.raises(InputError, match="--batch-size 2 or more"):
        run(build(ltm_ablation="swap"), tokens[:1], 4)


@pytest.mark.parametrize("ablation", ["zero", "swap"])
def test_ablation_changes_the_logits(ablation, tokens):
    normal, ablated = (run(build(ltm_ablation=name), tokens, 4) for name in ("none", ablation))
    assert not torch.allclose(ablated[:, 12:], normal[:, 12:], atol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"ltm_sampling": "sticky"}, {"long_term_memory": "compressive", "compressive_length": 20}],
    ids=["continuous", "sticky", "compressive"],
)
def test_ablation_swap_reads_the_same_other_row_throughout(settings):
    """Without short-term memory, in the only layer, nothing else carries what was before a segment."""
    model = build(ltm_ablation="swap", stm_length=0, decoder_layers=1, **settings)
    tokens = torch.randint(4, TYPES, (4, 24), generator=torch.Generator().manual_seed(1))
    before = run(model, tokens, 4)
    for row in range(4):
        other = tokens.clone()
        other[row, :4] = (other[row, :4] - 3) % (TYPES - 4) + 4
        differs = (run(model, other, 4) != before).any(-1).unflatten(1, (6, 4)).any(-1)  # (row, segment)
        assert differs[:, 0].tolist() == [r == row for r in range(4)]
        for segment in range(1, 6):
            assert differs[:, segment].tolist() == [r == (row + 1) % 4 for r in range(4)], segment


@pytest.mark.parametrize("memory", ["continuous", "compressive"])
def test_ablation_swap_reads_nothing_while_the_row_s_own_memory_is_empty(memory, tokens):
    """The first segments of a document are the same with swapped memories, whatever other rows remember."""
    normal, swapped = (build(long_term_memory=memory, ltm_ablation=a, stm_length=5) for a in ("none", "swap"))
    reset = {3: [True, False, False]}
    normal, swapped = (run(model, tokens, 4, reset=reset) for model in (normal, swapped))
    same_text(swapped[0, 12:20], normal[0, 12:20])
    assert not torch.allclose(swapped[0, 20:], normal[0, 20:], atol=1e-3)
    assert not torch.allclose(swapped[1, 12:], normal[1, 12:], atol=1e-3)


def test_adaptive_softmax_is_a_distribution(tokens):
    model = build(**ADAPTIVE)
    out = model(tokens, segment=0, lengths=np.full(3, 24), reset=np.full(3, True))
    probabilities = model.get_normalized_probs(out, log_probs=False)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 24))


def test_embeddings_are_tied_by_default():
    tied, untied = build(), build(untie_embeddings=True)
    assert tied.decoder.output_projection.weight is tied.decoder.embed_tokens.weight
    assert untied.decoder.output_projection.weight is not untied.decoder.embed_tokens.weight


def test_wt103_architecture_without_memory_has_the_size_of_transformer_xl():
    words = Dictionary()
    for number in range(267_744 - len(words)):
        words.add_symbol(f"w{number}")
    args = SimpleNamespace(long_term_memory="none")
    infinite_former_lm_wt103(args)
    with torch.device("meta"):
        model = InfiniteFormerLM.build(InfiniteFormerConfig(**vars(args)), words)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == pytest.approx(151_123_537, rel=0.005)  # that of fairseq's example


def test_half_precision_keeps_the_long_term_memory_in_float32(tokens):
    model = build().bfloat16()
    logits = run(model, tokens, 4)
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    assert model.decoder.streams[False].after[0].long_term.coefficients.dtype == torch.float32


def test_forward_refuses_a_batch_without_stream_information(tokens):
    with pytest.raises(InputError, match="--task streaming_language_modeling"):
        build()(tokens)


def test_load_state_dict_refuses_another_basis_or_dictionary():
    saved = build().state_dict()
    with pytest.raises(InputError, match=r"widths \(0.1, 0.2\).* build the model with the checkpoint's --ltm-basis"):
        build(ltm_widths="0.1,0.3").load_state_dict(saved)
    with pytest.raises(InputError, match=r"dict.txt \(40 types\) is not the one"):
        build(prefix="v").load_state_dict(saved)
