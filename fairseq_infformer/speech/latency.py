"""How late words are that are written while somebody speaks.

For each word of a translation there is the *delay* d: how many milliseconds of audio had been read when it was written.
Computation takes time too: *elapsed* e is when the word came, in milliseconds after the first sample. The
computation-aware form of a measure has e in place of d; which words it counts does not change.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Timing(NamedTuple):
    """When the words of one translation came."""

    source: float  # length of the audio, in milliseconds
    reference: int  # words of the reference
    delays: Sequence[float]  # of each word
    elapsed: Sequence[float]  # of each word


def average_lagging(timing: Timing, times: Sequence[float]) -> float:
    """AL (Ma, Huang et al. 2019; for speech, Ma, Pino and Koehn 2020), in milliseconds.

    ``1/τ Σ_i t_i - (i - 1) X / R`` over the words up to τ, the first one that was written after all was read: how much
    later they are than those of a speaker who utters the R words of the reference evenly in X.

    Args:
        timing: of one or more words. times: t, its delays or elapsed times.
    """
    return _lagging(timing, times, timing.reference)


def length_adaptive_average_lagging(timing: Timing, times: Sequence[float]) -> float:
    """LAAL (Papi et al. 2022): AL with the longer of reference and translation for R, so that words too many are not
    rewarded. In milliseconds; arguments are those of ``average_lagging``."""
    return _lagging(timing, times, max(timing.reference, len(times)))


def differentiable_average_lagging(timing: Timing, times: Sequence[float]) -> float:
    """DAL (Cherry and Foster 2019): over all W words, each at least X / W later than the one before.

    In milliseconds; arguments are those of ``average_lagging``.
    """
    pace = timing.source / len(times)
    total, last = 0.0, -pace
    for number, time in enumerate(times):
        last = max(time, last + pace)
        total += last - number * pace
    return total / len(times)


def average_proportion(timing: Timing, times: Sequence[float]) -> float:
    """AP (Cho and Esipova 2016): the mean share of the audio that a word waits for.

    Arguments are those of ``average_lagging``.
    """
    return sum(times) / len(times) / timing.source


def _lagging(timing: Timing, times: Sequence[float], words: int) -> float:
    pace = timing.source / words
    counted = next((n for n, d in enumerate(timing.delays, 1) if d >= timing.source), len(times))
    return sum(time - number * pace for number, time in enumerate(times[:counted])) / counted


MEASURES = {
    "AL": average_lagging,
    "LAAL": length_adaptive_average_lagging,
    "DAL": differentiable_average_lagging,
    "AP": average_proportion,
}


def latency(timings: Sequence[Timing]) -> dict[str, float]:
    """The mean of each of MEASURES over translations, and of its computation-aware form, ``…_CA``.

    Translations without words, and those without a reference, have no latency and do not count; if there are no others,
    there is nothing in the result.
    """
    counted = [timing for timing in timings if timing.delays and timing.reference]
    result = {}
    for name, measure in MEASURES.items():
        for suffix, times in (("", "delays"), ("_CA", "elapsed")):
            values = [measure(timing, getattr(timing, times)) for timing in counted]
            if values:
                result[name + suffix] = sum(values) / len(values)
    return result
