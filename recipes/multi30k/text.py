"""Pairs of sentences in pieces of one sentencepiece vocabulary, as fairseq-preprocess takes them.

RAW has two files per split, with a sentence per line: train, val (or valid) and test_2016_flickr (or test), each with
.en and .de. DEST gets train, valid and test in pieces, the sentences themselves as SPLIT.raw.en and SPLIT.raw.de, which
translations are scored against, and the model.
"""

import argparse
import json
from pathlib import Path

from fairseq_infformer.data.vocabulary import load_sentencepiece, train_sentencepiece
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import make_once, sha256

LANGUAGES = ("en", "de")
# By split, the names that its files may have.
NAMES = {"train": ("train",), "valid": ("val", "valid"), "test": ("test_2016_flickr", "test")}
NOTES, MODEL = "text.json", "sentencepiece.model"


def files_of(raw: Path) -> dict[str, list[Path]]:
    """The files of each split, by language; InputError if one is missing or has more lines than the other."""
    found = {}
    for split, names in NAMES.items():
        pairs = [[raw / f"{name}.{language}" for language in LANGUAGES] for name in names]
        pair = next((pair for pair in pairs if all(file.is_file() for file in pair)), None)
        if pair is None:
            raise InputError(f"--raw {raw} needs the files {' and '.join(file.name for file in pairs[0])}")
        first, second = (len(sentences(file)) for file in pair)
        if first != second:
            shown = " and ".join(file.name for file in pair)
            raise InputError(f"--raw {raw} needs as many lines in {shown}, got {first} and {second}")
        found[split] = pair
    return found


def sentences(file: Path) -> list[str]:
    """The lines of a file, with one space between words."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not text in UTF-8; convert it") from error
    return [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")]


def write(folder: Path, files: dict[str, list[Path]], size: int) -> None:
    """Train the model on the training sentences of both languages and write all splits in its pieces."""
    model, both = folder / MODEL, folder / "both"
    both.write_text("".join(f"{line}\n" for file in files["train"] for line in sentences(file)), encoding="utf-8")
    train_sentencepiece(both, model, size, "unigram")
    both.unlink()
    processor = load_sentencepiece(model)
    for split, pair in files.items():
        for file, language in zip(pair, LANGUAGES):
            lines = sentences(file)
            pieces = (" ".join(each) for each in processor.encode(lines, out_type=str))
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in pieces), encoding="utf-8")
            (folder / f"{split}.raw.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder of the sentences")
    parser.add_argument("--dest", type=Path, required=True, help="folder for the pieces")
    parser.add_argument("--vocab-size", type=int, required=True, help="number of pieces")
    args = parser.parse_args()
    files = files_of(args.raw)
    made_from = {
        "vocab_size": args.vocab_size,
        "text": {split: list(map(sha256, pair)) for split, pair in files.items()},
    }

    def fill(folder: Path) -> None:
        write(folder, files, args.vocab_size)
        (folder / NOTES).write_text(json.dumps({"made_from": made_from}, indent=2) + "\n")

    make_once(args.dest.resolve(), made_from, NOTES, fill)


if __name__ == "__main__":
    install_one_line_messages()
    main()
