"""Models of infinite_former_lm in ``transformers``, from the folder that infformer-export wrote."""

import math

import pytest

pytest.importorskip("transformers")

import torch
from preparing import lines_of, stats
from small_pretrained import close
from transformers import AutoModelForCausalLM, AutoTokenizer

from fairseq_infformer import hf
from fairseq_infformer.cli import export
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerLM


@pytest.fixture(scope="module")
def folder(documents, trained, tmp_path_factory):
    dest = tmp_path_factory.mktemp("exported") / "hf"
    export.main([str(part) for part in [documents, "--path", trained[0], "--to", "hf", "--dest", dest]])
    return dest


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def texts(model, rows, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, model.config.vocab_size, (rows, length), generator=generator)


@torch.no_grad()
def test_logits_are_those_of_the_model_segment_by_segment(model, folder):
    plain = InfiniteFormerLM.from_pretrained(folder)
    assert isinstance(model, hf.ExportedForCausalLM) and not model.training
    tokens = texts(model, 2, 3 * model.segment + 5)
    parts = tokens.split(model.segment, dim=1)
    expected = torch.cat([plain(part, segment=number)[0] for number, part in enumerate(parts)], dim=1)
    assert model(tokens).logits.equal(expected)


@torch.no_grad()
def test_padded_rows_give_what_they_give_alone(model):
    tokens = texts(model, 3, 2 * model.segment + 7)
    mask = torch.ones_like(tokens)
    mask[0, :9], mask[1, -model.segment :], mask[2, 3:6] = 0, 0, 0
    logits = model(tokens, attention_mask=mask).logits
    for row, text in enumerate(mask.bool()):
        close(logits[row, text], model(tokens[row, text][None]).logits[0])


@torch.no_grad()
def test_loss_and_tokens_are_those_of_the_data(model, folder, documents):
    """The tokenizer puts the token before a text that the data has not."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = lines_of(documents, "test")[:2]
    words = [[model.model.decoder.dictionary[token] for token in line[:-1]] for line in lines]
    encoded = tokenizer("".join(" ".join(line) + "\n" for line in words), return_tensors="pt").input_ids
    end = model.config.eos_token_id
    assert encoded.tolist() == [[end, *(token for line in lines for token in line)]]
    loss = float(model(encoded, labels=encoded).loss)
    assert loss < math.log(stats(documents)["dictionary"]["size"])


@torch.no_grad()
def test_generate_continues_with_the_most_probable_word(model):
    tokens = texts(model, 2, model.segment + 3)
    found = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=4, do_sample=False)
    for column in range(tokens.shape[1], found.shape[1]):
        expected = model(found[:, :column]).logits[:, -1].argmax(-1)
        ended = (found[:, tokens.shape[1] : column] == model.config.eos_token_id).any(1)
        assert (ended | (found[:, column] == expected)).all()


@torch.no_grad()
def test_saved_model_loads_with_the_same_logits(model, folder, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
    tokens = texts(model, 1, 20)
    assert AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits.equal(model(tokens).logits)


def test_training_gives_every_parameter_a_gradient(model):
    tokens = texts(model, 2, 3 * model.segment)
    model.train()(tokens, labels=tokens).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    model.zero_grad()
    model.eval()
