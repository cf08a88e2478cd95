"""Pairs of sentences in the form of fairseq-preprocess: the target is the source backwards."""

from pathlib import Path

import torch
from fairseq.data import indexed_dataset
from small_model import TYPES, dictionary


def write_pairs(folder: Path, **splits: int) -> Path:
    """So many pairs of each split, of 2 to 7 words; the languages are ``en`` and ``de``, of one dictionary."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, count in splits.items():
        lengths = torch.randint(2, 8, (count,), generator=generator).tolist()
        sentences = [torch.randint(4, TYPES, (length,), generator=generator) for length in lengths]
        for language in ("en", "de"):
            prefix = str(folder / f"{name}.en-de.{language}")
            builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=TYPES)
            for words in sentences:
                words = words if language == "en" else words.flip(0)
                builder.add_item(torch.cat([words, torch.tensor([2])]))
            builder.finalize(f"{prefix}.idx")
    for language in ("en", "de"):
        dictionary().save(str(folder / f"dict.{language}.txt"))
    return folder
