"""Log-mel features against Kaldi's, and of recordings that come in parts."""

import numpy as np
import pytest
import torch
from forking import ROOT

from fairseq_infformer.speech.log_mel import LogMel


@pytest.mark.parametrize(("rate", "bins"), [(8000, 40), (16000, 80)])
def test_log_mel_equals_kaldis(rate, bins):
    """To a thousandth of a natural logarithm: Kaldi's transform is in float32, as this one."""
    with np.load(ROOT / "tests/data/log_mel/kaldi.npz") as arrays:
        samples, expected = (torch.from_numpy(arrays[f"{name}{rate}"]) for name in ("signal", "features"))
    found = LogMel(rate, bins)(samples.float() / 32768)
    assert found.shape == expected.shape == (11, bins)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_push_in_parts_gives_the_features_of_the_whole():
    """Float32 sums of 129 products, of other shapes: logarithms of energies that differ by some roundings."""
    features, generator = LogMel(8000, 40), torch.Generator().manual_seed(0)
    samples = torch.randn(2000, generator=generator) / 10
    waiting, parts = samples[:0], []
    for part in samples.split([1, 150, 49, 800, 0, 1000]):
        frames, waiting = features.push(waiting, part)
        parts.append(frames)
    assert [len(part) for part in parts] == [0, 0, 1, 10, 0, 12]
    torch.testing.assert_close(torch.cat(parts), features(samples), rtol=0, atol=1e-5)
    assert len(waiting) < features.frame


def test_log_mel_of_silence_is_finite_and_of_less_than_a_frame_has_none():
    features = LogMel(8000, 40)
    assert torch.isfinite(features(torch.zeros(400))).all()
    assert features(torch.zeros(199)).shape == (0, 40)
