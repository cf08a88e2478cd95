"""Small corpora, and what the tests of prepare.sh read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset

from fairseq_infformer.cli import prepare
from fairseq_infformer.errors import InputError

TRAIN = "the cat sat on the mat .\n\nthe dog <unk> the cat !\n"
VALID = "the mat sat .\n"


def write(folder: Path, **splits: str | bytes | dict[str, str | bytes]) -> Path:
    """A raw corpus: ``train="text"`` is a file, ``train={"a": "text"}`` a folder of files."""
    for split, content in splits.items():
        files = content if isinstance(content, dict) else {"": content}
        for name, text in files.items():
            path = folder / split / name if name else folder / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def run(raw: Path, dest: Path, *options: object, level: str = "word") -> None:
    prepare.main([str(word) for word in ("--raw", raw, "--dest", dest, "--level", level, *options)])


def stats(dest: Path) -> dict:
    return json.loads((dest / "stats.json").read_text())


def lines_of(dest: Path, split: str) -> list[list[int]]:
    data = MMapIndexedDataset(str(dest / split))
    return [data[number].tolist() for number in range(len(data))]


def documents_of(dest: Path, split: str) -> list[str]:
    """The documents of a split, from its tokens and offsets alone; at word level, with LF for each line end."""
    dictionary = Dictionary.load(str(dest / "dict.txt"))
    offsets = np.load(dest / f"{split}.documents.npy")
    assert offsets.dtype == np.int64 and offsets[0] == 0 and (np.diff(offsets) > 0).all()
    tokens = np.array([token for line in lines_of(dest, split) for token in line])
    assert offsets[-1] < len(tokens)
    assert stats(dest)["splits"][split]["documents"] == len(offsets)
    texts = []
    for document in np.split(tokens, offsets[1:]):
        words = ["\n" if token == dictionary.eos() else dictionary[token] for token in document]
        texts.append(" ".join(words).replace(" \n ", "\n").replace(" \n", "\n").replace("\n ", "\n"))
    return texts


def refused(match: str, *args: object, **kwargs: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        run(*args, **kwargs)
    assert "\n" not in str(caught.value)
