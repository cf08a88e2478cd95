"""Sentences in two languages in the form of Multi30k, of words that are drawn."""

import random
from collections.abc import Mapping
from pathlib import Path

MULTI30K = {"train": 60, "val": 60, "test_2016_flickr": 60}


def write_raw(folder: Path, lines: Mapping[str, int] = MULTI30K, letters: str = "abcdefghij") -> Path:
    """A folder with so many lines of six words in each file, in English and in German."""
    draw = random.Random(1)
    folder.mkdir()
    for name, count in lines.items():
        for language in ("en", "de"):
            sentences = (" ".join("".join(draw.choices(letters, k=4)) for _ in range(6)) for _ in range(count))
            (folder / f"{name}.{language}").write_text("".join(f"{sentence}.\n" for sentence in sentences))
    return folder
