"""Speech translation: no word sees the future, pads change nothing, all learns, and beams are searched."""

from argparse import Namespace
from contextlib import nullcontext

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf
from small_translation import FRAMES, STRIDE, R, build, dictionary, speech, target

from fairseq_infformer.criterions.translation_cross_entropy import TranslationCrossEntropy
from fairseq_infformer.errors import InputError
from fairseq_infformer.plugin.run_checks import check_run

GIBBS = {"long_term_memory": "continuous", "ltm_density": "gibbs", "ltm_basis": 8, "ltm_widths": "0.1,0.2"}
ENCODERS = [
    {},
    {"long_term_memory": "none"},
    GIBBS,
    GIBBS | {"ltm_density": "renormalized-gaussian"},
    {"encoder_input": "past"},
    {"encoder_input": "all"},
]


@pytest.mark.parametrize(("settings", "ahead"), [({}, 8), (GIBBS, 8), ({"encoder_input": "past"}, 3)])
@pytest.mark.parametrize("k", [1, 3])
def test_word_sees_no_speech_after_its_reads(settings, ahead, k):
    """By gradients: word i sees k + i reads, the rest of their last segment and its right context, and no more."""
    model, x = build(wait_k=str(k), **settings), speech(1).requires_grad_()
    logits, _ = model(x, torch.tensor([FRAMES]), target(1, 6))
    for word in range(6):
        (gradient,) = torch.autograd.grad(logits[0, word].square().sum(), x, retain_graph=True)
        read = min((k + word) * R * STRIDE, FRAMES)
        if settings.get("encoder_input") != "past":
            read = -(-read // 16) * 16
        seen = gradient[0].abs().sum(1) > 0
        assert not seen[read + ahead :].any()
        assert bool(seen[:read].all())


@pytest.mark.parametrize("settings", ENCODERS)
def test_logits_ignore_pads_of_speech_and_of_words(settings):
    model, lengths = build(wait_k="2", **settings), torch.tensor([FRAMES, 21])
    x, words = speech(2), target(2, 5)
    with torch.no_grad():
        together, _ = model(x, lengths, words)
        alone, _ = model(x[1:, :21], lengths[1:], words[1:, :3])
    torch.testing.assert_close(together[1:, :3], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", ENCODERS)
def test_criterion_gives_every_parameter_a_gradient(settings):
    model, words = build(wait_k="1,inf", **settings).train(), target(2, 5)
    inputs = {"src_tokens": speech(2), "src_lengths": torch.tensor([FRAMES, 21]), "prev_output_tokens": words}
    criterion = TranslationCrossEntropy.__new__(TranslationCrossEntropy)
    torch.nn.Module.__init__(criterion)
    criterion.padding_idx, criterion.eps, criterion.sentence_avg = dictionary().pad(), 0.1, False
    criterion.ignore_prefix_size, criterion.report_accuracy = 0, False
    loss, _, log = criterion(model, {"net_input": inputs, "target": words, "ntokens": words.numel()})
    loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert torch.isfinite(loss) and log["ntokens"] == 10


def test_words_depend_on_the_order_of_states():
    """A streaming encoder's states do not say where in the utterance they are, but the decoder sees it."""
    model, words = build(), target(1, 5)
    with torch.no_grad():
        encoded = model.encoder(speech(1), torch.tensor([FRAMES]))
        turned = encoded._replace(states=encoded.states.flip(1))
        forward, backward = (model.decoder(words, each)[0] for each in (encoded, turned))
    assert (forward - backward).abs().max() > 1e-2


def test_training_draws_k_for_each_batch():
    model = build(wait_k="1,inf").train()
    torch.manual_seed(0)
    inputs = speech(1), torch.tensor([FRAMES]), target(1, 1)
    logits = torch.stack([model(*inputs)[0] for _ in range(12)])
    assert len(torch.unique(logits, dim=0)) == 2
    torch.testing.assert_close(model.eval()(*inputs)[0], build(wait_k="inf")(*inputs)[0], rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{}, {"encoder_input": "all"}])
def test_beam_search_finds_the_most_probable_translation(settings):
    """A beam of four over rows of other lengths scores what it finds as the model does, better than greedy search."""
    model, words = build(**settings), dictionary()
    x, lengths = speech(2), torch.tensor([FRAMES, 21])
    found = {}
    for beam in (1, 4):
        search = SequenceGenerator([model], words, beam_size=beam, max_len_b=6, normalize_scores=False)
        sample = {"net_input": {"src_tokens": x, "src_lengths": lengths, "prev_output_tokens": None}}
        found[beam] = [hypotheses[0] for hypotheses in search.generate([model], sample)]
    for row in range(2):
        tokens = found[4][row]["tokens"]
        before = torch.cat([tokens[-1:], tokens[:-1]])[None]
        with torch.no_grad():
            output = model(x[row : row + 1, : lengths[row]], lengths[row : row + 1], before)
        scores = model.get_normalized_probs(output, log_probs=True)[0].gather(1, tokens[:, None])
        torch.testing.assert_close(scores.sum(), found[4][row]["score"], rtol=1e-4, atol=1e-4)
        assert found[4][row]["score"] >= found[1][row]["score"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wait_k": "0"}, "--wait-k must be positive, got 0"),
        ({"wait_k": "1,x"}, "--wait-k must be whole numbers or inf, separated by commas, got '1,x'"),
        ({"pre_decision": 0}, "--pre-decision must be positive, got 0"),
        ({"segment_size": 2}, "--segment-size must be 4 or more and a multiple of 4, the frames per state; got 2"),
        ({"bank_length": 0}, "--bank-length must be positive, got 0; for no memory choose none"),
        ({"encoder_layers": 0}, "--encoder-layers must be 1 or more, got 0"),
    ],
)
def test_build_refuses_settings_in_one_line(settings, message):
    with pytest.raises(InputError) as error:
        build(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("task", ["streaming_speech_translation", "streaming_language_modeling"])
def test_check_run_lets_speech_be_translated(task, monkeypatch, tmp_path):
    """And no model of text, by a task that gives it no streams."""
    (tmp_path / "model.pt").touch()
    saved = {"cfg": OmegaConf.create({"task": {"_name": task}})}
    monkeypatch.setattr("fairseq.checkpoint_utils.load_checkpoint_to_cpu", lambda path: saved)
    cfg = Namespace(common_eval=Namespace(path=str(tmp_path / "model.pt")), task=Namespace(_name="any"))
    with pytest.raises(InputError) if task == "streaming_language_modeling" else nullcontext():
        check_run(cfg, "generate")
