"""Word accuracy, by examples that are counted by hand."""

import pytest

from fairseq_infformer.speech.accuracy import word_accuracy


@pytest.mark.parametrize(
    ("hypothesis", "reference", "mistakes"),
    [
        ("eins zwei drei", "eins zwei drei", 0),
        ("eins zwei vier", "eins zwei drei", 1),
        ("zwei drei", "eins zwei drei", 1),
        ("eins eins zwei drei", "eins zwei drei", 1),
        ("drei zwei", "eins zwei drei", 2),
        ("", "eins zwei drei", 3),
        ("vier fünf sechs sieben", "eins zwei drei", 4),
    ],
)
def test_word_accuracy_counts_the_fewest_mistakes(hypothesis, reference, mistakes):
    assert word_accuracy([hypothesis], [reference]) == pytest.approx(100 * (1 - mistakes / 3))


def test_word_accuracy_is_of_all_words_together():
    assert word_accuracy(["eins", "null"], ["eins zwei drei", "null"]) == 50
