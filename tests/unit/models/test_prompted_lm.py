"""fairseq's own beam search and sampling after prompts: memories follow the beams."""

import pytest
import torch
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator
from small_model import TYPES, build, build_memformer, run, same_text

from fairseq_infformer.models.prompted_lm import PromptedLM

SEGMENT, LENGTHS = 5, [12, 23, 0]


@pytest.fixture
def prompts():
    return torch.randint(4, TYPES, (3, 23), generator=torch.Generator().manual_seed(0))


def generated(model, prompts, **options):
    prompted = PromptedLM(model, SEGMENT)
    prompted.read(prompts, torch.tensor(LENGTHS))
    dictionary = model.decoder.dictionary
    generator = SequenceGenerator([prompted], dictionary, max_len_a=0, max_len_b=14, **options)
    return generator.generate([prompted], {"net_input": {"src_tokens": prompts}})


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (build, {"ltm_sampling": "sticky"}),
        (build, {"long_term_memory": "compressive", "compressive_length": 4, "compressive_rate": 2}),
        (build, {"adaptive_input": True, "adaptive_softmax_cutoff": "10,20"}),
        (build_memformer, {}),
    ],
)
@pytest.mark.parametrize("options", [{"beam_size": 4}, {"beam_size": 3, "temperature": 0.7}, {"sampling": 6}])
def test_generator_scores_each_hypothesis_as_the_model_scores_its_text(make, settings, options, prompts):
    """Beams change places across the ends of segments, which rows reach at different tokens."""
    model, options = make(**settings), dict(options)
    torch.manual_seed(0)
    if topk := options.pop("sampling", None):
        options |= {"search_strategy": Sampling(model.decoder.dictionary, topk), "beam_size": 2}
    start = torch.tensor([model.decoder.dictionary.eos()])
    for row, hypotheses in enumerate(generated(model, prompts, **options)):
        assert len(hypotheses) == options["beam_size"]
        for hypothesis in hypotheses:
            tokens = hypothesis["tokens"]
            text = torch.cat([start, prompts[row, : LENGTHS[row]], tokens])[None]
            logits = run(model, text[:, :-1], SEGMENT)[:, LENGTHS[row] :]
            log_probs = model.get_normalized_probs((logits, None), log_probs=True)[0] / options.get("temperature", 1.0)
            expected = log_probs.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            same_text(hypothesis["positional_scores"], expected)


@torch.no_grad()
def test_generator_ends_with_the_end_of_text_of_a_pretrained_model(prompts):
    """Which may have several, or none: then where another text starts. Some of its rows are no words."""
    pytest.importorskip("transformers")
    from small_pretrained import COMPRESSIVE, VOCABULARY, attached, close

    from fairseq_infformer.models.pretrained_lm import PretrainedConfig, PretrainedDecoder, PretrainedLM
    from fairseq_infformer.vocabulary_files import TokenizerDictionary

    dictionary = TokenizerDictionary([f"token{number}" for number in range(VOCABULARY - 3)])
    attached = attached(segment=SEGMENT, **COMPRESSIVE)
    model = PretrainedLM(PretrainedConfig(), SEGMENT, PretrainedDecoder(dictionary, attached)).eval()
    no_words = list(range(VOCABULARY - 3, VOCABULARY))
    arguments = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0, "suppress_tokens": no_words}
    for row, length in enumerate(LENGTHS):
        text = torch.cat([torch.tensor([attached.config.start_token]), prompts[row, :length]])[None]
        plain = attached.generate(text, attention_mask=torch.ones_like(text), **arguments)[0, 1 + length :].tolist()
        for ends in (None, plain[7], [plain[7], (plain[7] + 1) % dictionary.num_tokens]):
            attached.config.text_config.eos_token_id = ends
            known = ends if isinstance(ends, list) else [ends or attached.config.start_token]
            [hypothesis] = generated(model, prompts, beam_size=1, min_len=0)[row]
            *words, end = hypothesis["tokens"].tolist()
            assert end == dictionary.eos() and words == plain[: len(words)] and not {*known} & {*words}
            if len(known) == 1:  # several together may be more probable than the best word
                assert len(words) == (plain.index(known[0]) if known[0] in plain else 14)
            read = torch.cat([text, torch.tensor([words]).long()], dim=1)
            last = attached(read).logits[0, -1, : dictionary.num_tokens].log_softmax(-1)
            close(hypothesis["positional_scores"][-1], last[known].logsumexp(-1))
        attached.config.text_config.eos_token_id = None
