"""How many words of a translation are correct."""

from collections.abc import Sequence


def word_accuracy(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Words that are correct, in percent: 100 (1 - WER), below 0 where there are more mistakes than words.

    Mistakes are words that are replaced, left out or inserted, the fewest that explain a hypothesis.

    Args:
        hypotheses, references: texts with spaces between words; the references have one or more in all.
    """
    mistakes = sum(edits(mine.split(), right.split()) for mine, right in zip(hypotheses, references, strict=True))
    return 100 * (1 - mistakes / sum(len(right.split()) for right in references))


def edits(words: Sequence[str], reference: Sequence[str]) -> int:
    """Levenshtein's distance."""
    best = list(range(len(reference) + 1))  # from no word to each beginning of the reference
    for count, word in enumerate(words, 1):
        before, best = best, [count]
        for place, right in enumerate(reference):
            best.append(min(before[place] + (word != right), before[place + 1] + 1, best[-1] + 1))
    return best[-1]
