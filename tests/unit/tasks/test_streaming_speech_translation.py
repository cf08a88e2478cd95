"""The task of speech translation: an encoder that starts where another training has ended."""

from pathlib import Path

import pytest
import torch
from small_speech import BINS, RATE, config, task, write_corpus

from fairseq_infformer.cli import prepare_speech
from fairseq_infformer.errors import InputError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    flags = ("--raw", write_corpus(folder / "raw"), "--dest", folder / "data", "--rate", RATE, "--bins", BINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["prepare_speech", *map(str, flags)])
        prepare_speech.main()
    return folder / "data"


@pytest.fixture
def recognition(data, tmp_path, monkeypatch) -> Path:
    """A checkpoint that has a model alone."""
    torch.manual_seed(1)
    torch.save({"model": task(data).build_model(config()).state_dict()}, tmp_path / "model.pt")
    monkeypatch.setattr("fairseq.checkpoint_utils.load_checkpoint_to_cpu", torch.load)
    return tmp_path / "model.pt"


def test_build_model_lets_the_encoder_alone_start_as_another(data, recognition):
    torch.manual_seed(2)
    weights = task(data, load_pretrained_encoder_from=str(recognition)).build_model(config()).state_dict()
    same = {name: torch.equal(value, weights[name]) for name, value in torch.load(recognition)["model"].items()}
    assert all(equal for name, equal in same.items() if name.startswith("encoder."))
    assert not same["decoder.embed_tokens.weight"]


def test_build_model_needs_no_other_for_a_checkpoint(data):
    task(data, load_pretrained_encoder_from="gone.pt").build_model(config(), from_checkpoint=True)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gone.pt", {}, "gone.pt does not exist; give a checkpoint that does"),
        (None, {"encoder_layers": 2}, "has no such encoder (.*); train both with the same settings"),
    ],
)
def test_build_model_refuses_another_encoder_in_one_line(data, recognition, name, settings, message):
    with pytest.raises(InputError, match=message) as error:
        task(data, load_pretrained_encoder_from=name or str(recognition)).build_model(config(**settings))
    assert str(error.value).startswith("--load-pretrained-encoder-from ") and "\n" not in str(error.value)
