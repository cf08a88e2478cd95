"""Saved models: what ``transformers`` reads back by itself."""

import json

import pytest
import torch

pytest.importorskip("transformers")

from small_pretrained import ARCHITECTURES, COMPRESSIVE, CONTINUOUS, GIBBS, VOCABULARY, attached, close, text
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from fairseq_infformer.errors import InputError
from fairseq_infformer.pretrained import InfformerForCausalLM


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("settings", [CONTINUOUS, COMPRESSIVE, {"memory": "none"}])
def test_saved_model_has_the_same_logits(architecture, settings, tmp_path):
    model, tokens = attached(architecture, **settings), text(40, rows=2)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, InfformerForCausalLM) and not loaded.training
    close(loaded(tokens).logits, model(tokens).logits)
    assert {name: each.shape for name, each in loaded.named_parameters()} == {
        name: each.shape for name, each in model.named_parameters()
    }


@torch.no_grad()
def test_saved_model_loads_in_half_precision_with_an_exact_basis(tmp_path):
    model, tokens = attached(**CONTINUOUS), text(40)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    expected = model(tokens).logits
    # A few dozen roundings of half an epsilon of the largest value, in two layers.
    error = (loaded(tokens).logits.float() - expected).abs().max() / expected.abs().max()
    assert float(error) < 20 * torch.finfo(torch.bfloat16).eps
    buffers = dict(loaded.memories.named_buffers())
    for name, buffer in model.memories.named_buffers():
        assert torch.equal(buffers[name], buffer) and buffer.dtype == torch.float32, name
    loaded.save_pretrained(tmp_path / "half")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert again.dtype == torch.bfloat16
    assert torch.equal(again(tokens).logits, loaded(tokens).logits)


def test_saved_model_generates_as_before(tmp_path):
    model = attached(**GIBBS)
    model.generation_config.update(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.generate(text(21)).equal(model.generate(text(21)))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_saved_model_has_tokens_that_were_added(architecture, tmp_path):
    model, tokens = attached(architecture, **GIBBS), text(21)
    before = model(tokens).logits
    model.resize_token_embeddings(VOCABULARY + 3)
    close(model(tokens).logits[..., :VOCABULARY], before)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    close(loaded(tokens + 3).logits, model(tokens + 3).logits)
    close(loaded(tokens + 3, labels=tokens + 3).loss, model(tokens + 3, labels=tokens + 3).loss)


def test_tokenizer_is_saved_along(tmp_path):
    words = {f"w{number}": number for number in range(VOCABULARY)}
    own = Tokenizer(models.WordLevel(words, unk_token="w0"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    attached(**GIBBS).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=own, unk_token="w0").save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("w3 w7 x")["input_ids"] == [3, 7, 0]
    assert AutoConfig.from_pretrained(tmp_path).text_config.vocab_size == VOCABULARY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": "elephant"}, "memory must be one of none, .*continuous.*, got 'elephant'"),
        ({"memory_settings": {"bases": 16}}, "the memory continuous has no setting 'bases'; it has basis, "),
        ({"segment": 0}, "segment must be a whole number, 1 or more, got 0"),
        ({"layers": [2]}, r"layers must be numbers in 0\.\.1, got \[2\]"),
    ],
)
def test_loading_refuses_a_wrong_configuration(changes, message, tmp_path):
    attached(**CONTINUOUS).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path)
