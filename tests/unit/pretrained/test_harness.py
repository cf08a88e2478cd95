"""``infformer-lm-eval``: the LM Evaluation Harness with models that have a memory."""

import pytest

pytest.importorskip("transformers")
pytest.importorskip("lm_eval")

import torch
from lm_eval.models.huggingface import HFLM
from pretrained_data import write_model
from small_pretrained import GIBBS, SEGMENT, text
from transformers import AutoModelForCausalLM, AutoTokenizer

from fairseq_infformer.cli.harness import InfformerLM
from fairseq_infformer.errors import InputError
from fairseq_infformer.pretrained import InfformerForCausalLM, attach


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with a memory and its tokenizer."""
    base = write_model(tmp_path_factory.mktemp("models") / "llama")
    model = attach(AutoModelForCausalLM.from_pretrained(base), segment=SEGMENT, **GIBBS).eval()
    for gated in model.memories.values():
        torch.nn.init.constant_(gated.gate, 0.7 / gated.scale)
    return model, AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def harness(folder):
    model, tokenizer = folder
    return InfformerLM(model, tokenizer=tokenizer, batch_size=3)


def requests(*pairs):
    return [(None, context.tolist(), continuation.tolist()) for context, continuation in pairs]


def pair(context, continuation, seed):
    both = text(context + continuation, seed=seed)[0]
    return both[:context], both[context:]


@torch.no_grad()
def alone(model, context, continuation):
    logits = model(torch.cat([context, continuation])[None]).logits[0, len(context) - 1 : -1]
    scores = logits.log_softmax(-1).gather(1, continuation[:, None]).sum()
    return float(scores), bool((logits.argmax(-1) == continuation).all())


def test_likelihoods_are_those_of_each_text_alone(harness):
    """Of contexts of several segments, of one token, and of one that several continuations share."""
    one, other = pair(30, 20, seed=1)
    pairs = [(one, other), pair(1, 43, seed=2), (one, other[:3]), pair(5, 1, seed=3), pair(50, 2, seed=4), (one, one)]
    likely = [harness.model(one[None]).logits[0, -1].argmax()[None]]
    pairs.append((one, likely[0]))
    found = harness._loglikelihood_tokens(requests(*pairs), disable_tqdm=True)
    expected = [alone(harness.model, *each) for each in pairs]
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected] and found[-1][1]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5)


def test_likelihoods_equal_those_of_the_harness_itself(folder, harness):
    model, tokenizer = folder
    plain = HFLM(model, tokenizer=tokenizer, batch_size=2, max_length=1000)
    several = requests(pair(30, 20, seed=1), pair(3, 30, seed=2))
    found, expected = (each._loglikelihood_tokens(several, disable_tqdm=True) for each in (harness, plain))
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5)


def test_contexts_that_are_shared_are_read_once(harness, monkeypatch):
    one, other = pair(40, 4, seed=1)
    read, forward = [], InfformerForCausalLM.forward

    def noted(self, tokens, *args, **kwargs):
        read.append(tokens.numel())
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(InfformerForCausalLM, "forward", noted)
    harness._loglikelihood_tokens(requests(*((one, other[n : n + 1]) for n in range(3))), disable_tqdm=True)
    assert sum(read) == 39 + 3


def test_other_models_and_batch_sizes_are_refused(folder):
    model, tokenizer = folder
    with pytest.raises(InputError, match="--batch_size must be a number for --model infformer, got auto"):
        InfformerLM(model, tokenizer=tokenizer, batch_size="auto")
    with pytest.raises(InputError, match=r"takes a model with a memory, got a LlamaForCausalLM; give --model hf"):
        InfformerLM(model.base, tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"^pretrained=/no/folder cannot be read \(.*\); give a folder that") as caught:
        InfformerLM("/no/folder", device="cpu")
    assert "\n" not in str(caught.value)
