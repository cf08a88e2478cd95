"""fairseq's own beam search and sampling after prompts: memories follow the beams."""

import pytest
import torch
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator
from small_model import TYPES, build, build_memformer, run, same_text

from fairseq_infformer.models.prompted_lm import PromptedLM
from fairseq_infformer.models.text_stream import Stream

SEGMENT, LENGTHS = 5, [12, 23, 0]


@pytest.fixture
def prompts():
    return torch.randint(4, TYPES, (3, 23), generator=torch.Generator().manual_seed(0))


def generated(model, prompts, **options):
    stream, prompted = Stream(model, SEGMENT, rows=3), PromptedLM(model)
    stream.read(prompts, torch.tensor(LENGTHS))
    prompted.decoder.prompts = stream
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
