"""Latency of worked examples."""

import pytest

from fairseq_infformer.speech.latency import (
    Timing,
    average_lagging,
    average_proportion,
    differentiable_average_lagging,
    latency,
    length_adaptive_average_lagging,
)

# One second of audio, four words; the third is the first that comes when all is read. Each takes 100 ms to compute.
DELAYS = [400.0, 600.0, 1000.0, 1000.0]
ELAPSED = [500.0, 700.0, 1100.0, 1200.0]
TIMING = Timing(1000.0, 4, DELAYS, ELAPSED)


def test_average_lagging_of_a_worked_example():
    # Four words in a second: one per 250 ms. (400 - 0) + (600 - 250) + (1000 - 500) = 1250, of three words.
    assert average_lagging(TIMING, DELAYS) == pytest.approx(1250 / 3)
    # (500 - 0) + (700 - 250) + (1100 - 500) = 1550: the fourth word is left out here too.
    assert average_lagging(TIMING, ELAPSED) == pytest.approx(1550 / 3)
    # Two words in a second: (400 - 0) + (600 - 500) + (1000 - 1000) = 500.
    assert average_lagging(TIMING._replace(reference=2), DELAYS) == pytest.approx(500 / 3)


def test_average_lagging_of_a_translation_that_waits_for_all_is_the_length_of_the_audio():
    assert average_lagging(Timing(1000.0, 4, [1000.0] * 4, [1000.0] * 4), [1000.0] * 4) == 1000


def test_average_lagging_of_a_translation_that_ends_early_counts_all_of_its_words():
    # (200 - 0) + (400 - 250) = 350, of two words.
    assert average_lagging(Timing(1000.0, 4, [200.0, 400.0], [200.0, 400.0]), [200.0, 400.0]) == 175


def test_length_adaptive_average_lagging_takes_the_longer_text():
    # Four words were written for two: one per 250 ms, as above.
    assert length_adaptive_average_lagging(TIMING._replace(reference=2), DELAYS) == pytest.approx(1250 / 3)
    # Five should have been: one per 200 ms. (400 - 0) + (600 - 200) + (1000 - 400) = 1400.
    assert length_adaptive_average_lagging(TIMING._replace(reference=5), DELAYS) == pytest.approx(1400 / 3)


def test_differentiable_average_lagging_of_a_worked_example():
    # Words count from 400, 650 (250 after the first), 1000 and 1250; less 0, 250, 500, 750: 400, 400, 500, 500.
    assert differentiable_average_lagging(TIMING, DELAYS) == 450
    # 500, 750, 1100, 1350: 500, 500, 600, 600.
    assert differentiable_average_lagging(TIMING, ELAPSED) == 550


def test_average_proportion_of_a_worked_example():
    # (400 + 600 + 1000 + 1000) / 4 = 750 of 1000.
    assert average_proportion(TIMING, DELAYS) == 0.75
    # (500 + 700 + 1100 + 1200) / 4 = 875.
    assert average_proportion(TIMING, ELAPSED) == 0.875


def test_latency_is_the_mean_over_translations_with_words():
    silent = Timing(1000.0, 4, [], [])
    waiting = Timing(1000.0, 4, [1000.0], [1000.0])
    found = latency([TIMING, silent, waiting])
    assert found["AL"] == pytest.approx((1250 / 3 + 1000) / 2) and found["AP_CA"] == pytest.approx((0.875 + 1) / 2)
    assert list(found) == ["AL", "AL_CA", "LAAL", "LAAL_CA", "DAL", "DAL_CA", "AP", "AP_CA"]
    assert latency([silent]) == {}
