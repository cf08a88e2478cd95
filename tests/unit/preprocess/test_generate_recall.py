"""The needle test's documents: what they tell, when they ask for it, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, run_forked

from fairseq_infformer.errors import InputError
from preprocess import generate_recall

SIZE = ["--facts", 3, "--values", 4, "--documents", 40, "--reach", 300, "--distances", "30,60,90,200"]


def generate(dest: Path, *more: object) -> Path:
    arguments = ["generate_recall.py", "--dest", dest, *SIZE, "--evaluation-documents", 4, *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(argument) for argument in arguments])
        generate_recall.main()
    return dest


def documents_of(dest: Path, split: str) -> list[list[str]]:
    """The words of each document; every one is followed by a blank line."""
    lines = (dest / f"{split}.txt").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "" and not any(lines[1::2])
    return [line.split(" ") for line in lines[::2]]


def asked(words: list[str]) -> list[int]:
    """The distances of a document's questions in the order of asking, after a check of its answers."""
    stated, distances = {}, []
    for at, word in enumerate(words):
        if word == "<fact>":
            assert words[at + 1] not in stated
            stated[words[at + 1]] = at + 2
        if word == "<ask>":
            key, answer, value, end = words[at + 1 : at + 5]
            assert (answer, end) == ("<answer>", "</answer>")
            assert value == words[stated[key]]
            distances.append(at + 3 - stated[key])
    assert len(distances) == len(stated) == 3
    return distances


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("recall") / "drawn")


def test_facts_are_asked_once_at_the_requested_distances(drawn):
    assert sorted(path.name for path in drawn.iterdir()) == ["recall.json", "test.txt", "train.txt", "valid.txt"]
    assert not drawn.with_name("drawn.partial").exists()
    train = documents_of(drawn, "train")
    assert len(train) == 40
    distances = np.array([asked(words) for words in train])
    assert distances.min() >= 8 and distances.max() <= 300 + 15  # moved on by other questions
    assert 35 < np.median(distances) < 75  # the middle of 8 … 300 on a logarithmic scale is 49
    for split in ("valid", "test"):
        documents = documents_of(drawn, split)
        assert [len(words) for words in documents] == [3 * 8 + distance for distance in [30, 60, 90, 200] * 4]
        # Facts are three words apart and questions five.
        distances = [[distance, distance + 2, distance + 4] for distance in (30, 60, 90, 200)]
        assert [asked(words) for words in documents] == distances * 4


def test_facts_have_new_pairs_and_are_asked_in_any_order(drawn):
    pairs, orders = set(), set()
    for words in documents_of(drawn, "train"):
        keys = [words[at + 1] for at, word in enumerate(words) if word == "<fact>"]
        pairs |= {(words[at + 1], words[at + 2]) for at, word in enumerate(words) if word == "<fact>"}
        orders.add(tuple(keys.index(words[at + 1]) for at, word in enumerate(words) if word == "<ask>"))
    assert len(pairs) == 3 * 4
    assert len(orders) == 6


def test_documents_are_filled_with_consecutive_text(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / "text" / split).mkdir(parents=True)
        numbers = " ".join(f"{split}{number}" for number in range(50))
        (tmp_path / "text" / split / "a.txt").write_text(f"It's {numbers}\n", encoding="utf-8")
    dest = generate(tmp_path / "made", "--text", tmp_path / "text")
    for split, source in (("train", "train"), ("valid", "valid"), ("test", "valid")):
        words = ["it", "'", "s", *(f"{source}{number}" for number in range(50))]
        for document in documents_of(dest, split):
            asked(document)
            ours = " ".join(document).replace("</answer>", "</answer> <fact>").split("<fact>")
            filler = " ".join(part.split("<ask>")[0].split("> ")[-1] for part in ours).split()
            first = words.index(filler[0])
            assert filler == [words[(first + step) % len(words)] for step in range(len(filler))]


def test_main_repeats_for_the_same_arguments_and_refuses_others(drawn, tmp_path, capsys):
    again = generate(tmp_path / "again")
    for split in ("train", "valid", "test"):
        assert (again / f"{split}.txt").read_bytes() == (drawn / f"{split}.txt").read_bytes()
    capsys.readouterr()
    generate(tmp_path / "again")
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds something else"):
        generate(tmp_path / "again", "--seed", 2)
    next((tmp_path / "again").glob("*.json")).write_text("{half of")
    with pytest.raises(InputError, match="holds something else"):
        generate(tmp_path / "again")


def test_main_leaves_nothing_behind_when_it_fails(tmp_path):
    for split, content in (("train", b"some words"), ("valid", b"caf\xe9")):
        (tmp_path / "text" / split).mkdir(parents=True)
        (tmp_path / "text" / split / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match="is not UTF-8"):
        generate(tmp_path / "made", "--text", tmp_path / "text")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--facts", 0], "--facts must be 1 or more, got 0"),
        (["--evaluation-documents", -1], "--evaluation-documents must be 1 or more, got -1"),
        (["--nearest", 301], "--reach 300 is less than --nearest 301"),
        (["--distances", "60,30"], "--distances must be positive and increase, got 60,30"),
        (["--text", ROOT / "preprocess"], "--text .* has no files in .*train"),
    ],
)
def test_main_refuses_wrong_arguments(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message) as refused:
        generate(tmp_path / "made", *arguments)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


def test_errors_are_reported_in_one_line(tmp_path):
    wrong = ["--dest", tmp_path / "no", "--documents", 0]
    done = run_forked("preprocess.generate_recall", *wrong, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "error: --documents must be 1 or more, got 0"
