"""Turn raw text into a folder that fairseq-train reads, with document boundaries and exact counts beside it."""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.binarizer import Binarizer, VocabularyDatasetBinarizer
from tqdm import tqdm

from fairseq_infformer.cli.stages import Workplace
from fairseq_infformer.data import corpus, gpt2, vocabulary
from fairseq_infformer.data.binarised import load_dictionary, refuse_colon
from fairseq_infformer.errors import InputError, install_one_line_messages

STAGES = ("text", "vocabulary", "data")
LEVELS = ("word", "sentencepiece", "gpt2")
# What the vocabulary of each level is, beside dict.txt.
VOCABULARY_FILES = ("sentencepiece.model", gpt2.VOCABULARY, gpt2.MERGES)
# Options that only some levels have.
MEANINGLESS = {
    "word": ("model_type", "sentencepiece_model", "gpt2"),
    "sentencepiece": ("gpt2",),
    "gpt2": ("model_type", "sentencepiece_model", "vocab_size", "dict"),
}
LAYOUT = """
DEST becomes the data folder of fairseq-train:
  dict.txt                  fairseq's dictionary
  {train,valid,test}.bin    tokens; every line, a blank one too, ends with </s>, with --level gpt2 with a line end
  {train,valid,test}.idx    their places
  {split}.documents.npy     token offsets (int64) at which documents start, the first of them 0
  sentencepiece.model       with --level sentencepiece; its ids are those of dict.txt
  vocab.json, merges.txt    with --level gpt2; dict.txt has GPT-2's tokens in their order, see data/gpt2.py
  stats.json                counts of each split. words: words between spaces and one line end a line, so that
                            exp(total loss / words) is the perplexity per word at every level; bytes: UTF-8, line
                            ends included; tokens: in the .bin; unknown: of these, not in the dictionary.
                            dictionary: size: entries; types: those a text can have, <unk> and </s> among them

The splits are found by a word of their names: one file or folder of files train, one valid, and test if there is one.
The files of a folder are joined in the order of their names. Byte order marks at the start of a line go, CRLF becomes
LF, a last line gets its end.

Documents start, with --documents
  wikitext     at a line ' = Title = ' between blank lines (' = = Section = = ' is none)
  blank-line   after blank lines, which belong to the document before them; characters without width are blank
  file         at every file of a folder
  endoftext    after every line <|endoftext|>, which is no text
and without it a split is one document.

DEST appears when all is done; work goes on in DEST.partial, which an interrupted run leaves behind and the next one
takes over. So DEST can be no mount point, only a folder in one, and no ':' may be in its path, at which fairseq splits.
The same call on a finished DEST changes nothing. Stages: 1 text, 2 vocabulary, 3 data.

examples:
  prepare.sh --raw wikitext-103 --dest data/wt103 --level word --documents wikitext
  prepare.sh --raw books --dest data/books --level sentencepiece --vocab-size 8000 --documents file
  prepare.sh --raw mine --dest data/mine --level word --dict data/wt103/dict.txt
  prepare.sh --raw wikitext-103-raw --dest data/wt103-gpt2 --level gpt2 --gpt2 gpt2
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="prepare.sh", description=__doc__, epilog=LAYOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="folder with the splits as UTF-8 text")
    parser.add_argument("--dest", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--level", required=True, choices=LEVELS, help="what a token is")
    parser.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="word: entries of the dictionary, fairseq's four included (default: all words); "
        "sentencepiece: pieces, bytes included (default: 8000)",
    )
    parser.add_argument("--model-type", choices=("unigram", "bpe"), help="of sentencepiece (default: unigram)")
    parser.add_argument(
        "--documents", choices=corpus.DOCUMENT_RULES, help="where documents start (default: a split is one document)"
    )
    parser.add_argument("--dict", type=Path, metavar="FILE", help="use this dict.txt instead of making one")
    parser.add_argument(
        "--sentencepiece-model", type=Path, metavar="FILE", help="use this model instead of training one"
    )
    parser.add_argument(
        "--gpt2", type=Path, metavar="DIR", help="GPT-2 as Hugging Face publishes it, for vocab.json and merges.txt"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--stage", type=int, default=1, metavar="A", help="first stage to run (default: 1)")
    parser.add_argument("--stop-stage", type=int, default=len(STAGES), metavar="B", help="last one (default: 3)")
    parser.add_argument("--overwrite", action="store_true", help="make a DEST of other text or arguments anew")
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line and refuse what does not go together."""
    args = build_parser().parse_args(argv)

    if args.vocab_size is not None and args.vocab_size < 5:
        raise InputError(f"--vocab-size {args.vocab_size} leaves no room for words; give at least 5")
    if args.workers < 1:
        raise InputError(f"--workers {args.workers} can do no work; give at least 1")
    if not 1 <= args.stage <= args.stop_stage <= len(STAGES):
        raise InputError(
            f"--stage {args.stage} --stop-stage {args.stop_stage} is no range of stages; they are 1 to {len(STAGES)}"
        )
    for name in MEANINGLESS[args.level]:
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} means nothing with --level {args.level}; leave it out")
    made = [name for name in ("vocab_size", "model_type") if getattr(args, name) is not None]
    if made and (args.dict or args.sentencepiece_model):
        raise InputError(
            f"--{made[0].replace('_', '-')} makes a new vocabulary, and another one is given; leave one of the two out"
        )
    if args.level == "gpt2" and not args.gpt2:
        raise InputError("--level gpt2 needs --gpt2, the folder of the GPT-2 whose tokens they are")
    if args.level != "sentencepiece":
        return args
    if args.dict and not args.sentencepiece_model:
        raise InputError(f"--dict {args.dict} needs the model it was made with; give --sentencepiece-model too")
    if not args.sentencepiece_model:
        args.vocab_size, args.model_type = args.vocab_size or 8000, args.model_type or "unigram"
    return args


def check_folders(raw: Path, dest: Path, partial: Path) -> None:
    """Refuse folders that would write into the raw text, or over files that this program has not written."""
    for written in (dest, partial):
        if raw.is_relative_to(written) or written.is_relative_to(raw):
            raise InputError(f"--dest {dest} and --raw {raw} lie in one another; give a --dest elsewhere")
    if dest.exists() and not dest.is_dir():
        raise InputError(f"--dest {dest} is a file; give a folder that need not exist yet")


def is_done(dest: Path, made_from: dict[str, Any], overwrite: bool) -> bool:
    """Whether DEST is there and made from this; InputError if it holds anything that must not be removed."""
    if not dest.exists() or not any(dest.iterdir()):
        return False
    try:
        earlier = json.loads((dest / "stats.json").read_text(encoding="utf-8"))["made_from"]
        differing = [key for key in made_from if earlier.get(key) != made_from[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"--dest {dest} holds other files; give a folder that is new or empty") from None
    if not overwrite:
        if differing:
            raise InputError(
                f"--dest {dest} was made with other {', '.join(differing)}; give --overwrite or another --dest"
            )
        return True
    ours = {"dict.txt", "stats.json", *VOCABULARY_FILES}
    ours |= {f"{split}.{end}" for split in corpus.SPLITS for end in ("bin", "idx", "documents.npy")}
    if others := sorted(path.name for path in dest.iterdir() if path.name not in ours):
        raise InputError(f"--overwrite would remove {others[0]} from {dest}; move it elsewhere")
    return False


def check_given(args: argparse.Namespace) -> None:
    """Read the vocabulary that was given, if any, before there is work to lose."""
    dictionary = args.dict and load_dictionary(args.dict)
    if dictionary and args.dict.read_text(encoding="utf-8").startswith(corpus.BYTE_ORDER_MARK):
        raise InputError(f"--dict {args.dict} starts with a byte order mark, which no word of a text has; remove it")
    processor = args.sentencepiece_model and vocabulary.load_sentencepiece(args.sentencepiece_model)
    if processor:
        vocabulary.check_reserved(processor)
    if dictionary and processor:
        vocabulary.check_pieces(processor, dictionary)
    if args.gpt2:
        gpt2.load_encoder(args.gpt2)


def write_text(made: Path, splits: dict[str, list[Path]], args: argparse.Namespace) -> None:
    """Stage 1: clean text, counts and document starts of every split."""
    counts = {}
    for split, files in splits.items():
        size = sum(file.stat().st_size for file in files)
        with tqdm(total=size, desc=f"read {split}", unit="B", unit_scale=True, disable=None) as bar:
            reserved = vocabulary.RESERVED if args.level == "word" else frozenset()
            counts[split], starts = corpus.clean(files, made / f"{split}.txt", args.documents, reserved, bar.update)
        np.save(made / f"{split}.starts.npy", starts)
    (made / "counts.json").write_text(json.dumps(counts, allow_nan=False))


def write_vocabulary(made: Path, text: Path, args: argparse.Namespace) -> None:
    """Stage 2: the dictionary, and the sentencepiece model or GPT-2's files that go with it."""
    model, dictionary = made / "sentencepiece.model", made / "dict.txt"
    if args.level == "gpt2":
        for name in (gpt2.VOCABULARY, gpt2.MERGES):
            shutil.copyfile(args.gpt2 / name, made / name)
        gpt2.gpt2_dictionary(gpt2.load_encoder(made)).save(str(dictionary))
        return
    if args.sentencepiece_model:
        shutil.copyfile(args.sentencepiece_model, model)
    elif args.level == "sentencepiece":
        vocabulary.train_sentencepiece(text / "train.txt", model, args.vocab_size, args.model_type)
    if args.dict:
        shutil.copyfile(args.dict, dictionary)
    elif args.level == "sentencepiece":
        vocabulary.sentencepiece_dictionary(vocabulary.load_sentencepiece(model)).save(str(dictionary))
    else:
        vocabulary.word_dictionary(text / "train.txt", args.vocab_size, args.workers).save(str(dictionary))


def write_data(made: Path, text: Path, vocab: Path, made_from: dict[str, Any], args: argparse.Namespace) -> None:
    """Stage 3: binarised splits, document offsets and stats.json."""
    for name in ("dict.txt", *VOCABULARY_FILES):
        if (vocab / name).exists():
            shutil.copyfile(vocab / name, made / name)
    dictionary = load_dictionary(made / "dict.txt")
    binarizer: Binarizer = VocabularyDatasetBinarizer(dictionary)
    if args.level == "sentencepiece":
        processor = vocabulary.load_sentencepiece(made / "sentencepiece.model")
        binarizer = vocabulary.SentencePieceBinarizer(processor, dictionary)
    elif args.level == "gpt2":
        binarizer = gpt2.Gpt2Binarizer(made, dictionary)

    splits = {}
    for split, counts in json.loads((text / "counts.json").read_text()).items():
        sizes, unknown = vocabulary.binarize(
            text / f"{split}.txt", made / split, binarizer, len(dictionary), args.workers, counts["lines"]
        )
        starts = np.load(text / f"{split}.starts.npy")
        # The offset of a line is the number of tokens in the lines before it.
        np.save(made / f"{split}.documents.npy", (np.cumsum(sizes) - sizes)[starts])
        splits[split] = {"documents": len(starts), **counts, "tokens": int(sizes.sum()), "unknown": unknown}
        print(f"{split}: " + ", ".join(f"{number:,} {name}" for name, number in splits[split].items()), flush=True)

    stats = {
        "level": args.level,
        "documents_rule": args.documents,
        "dictionary": {
            "types": vocabulary.count_types(dictionary),
            "size": len(dictionary),
            "sha256": corpus.sha256(made / "dict.txt"),
        },
        "splits": splits,
        "made_from": made_from,
    }
    noted = json.dumps(stats, indent=2, ensure_ascii=False, allow_nan=False)
    (made / "stats.json").write_text(noted + "\n", encoding="utf-8")


def run(args: argparse.Namespace) -> None:
    """Run the stages asked for."""
    refuse_colon(args.dest)
    raw, dest = args.raw.resolve(), args.dest.resolve()
    place = Workplace(dest, STAGES)
    check_folders(raw, dest, place.folder)
    check_given(args)
    entries = corpus.find_splits(raw)
    for split, entry in entries.items():
        if args.documents == "file" and not entry.is_dir():
            raise InputError(f"--documents file needs folders, {split} is the file {entry}; put it in a folder")
    splits = {split: corpus.files_of(entry) for split, entry in entries.items()}
    for split, entry in entries.items():
        print(f"{split}: {entry}, {len(splits[split])} file(s)", flush=True)
    if "test" not in entries:
        print(f"test: no name in {raw} has this word, so there will be none in {dest}", flush=True)

    text_from = {
        "level": args.level,
        "documents": args.documents,
        "files": {split: {file.name: corpus.sha256(file) for file in files} for split, files in splits.items()},
    }
    made_from = text_from | {
        "vocab_size": args.vocab_size,
        "model_type": args.model_type,
        "dict": args.dict and corpus.sha256(args.dict),
        "sentencepiece_model": args.sentencepiece_model and corpus.sha256(args.sentencepiece_model),
        "gpt2": args.gpt2 and [corpus.sha256(args.gpt2 / name) for name in (gpt2.VOCABULARY, gpt2.MERGES)],
    }
    if is_done(dest, made_from, args.overwrite):
        if place.folder.exists():
            with place.opened():
                place.clear()
        print(f"{dest} is there, made from the same text and arguments: nothing to do")
        return
    with place.opened():
        stages = range(args.stage, args.stop_stage + 1)
        if 1 in stages:
            place.clear()
            with place.stage("text", text_from) as made:
                write_text(made, splits, args)
        text = place.require("text", text_from)
        if 2 in stages:
            given = args.dict or args.sentencepiece_model or args.gpt2
            print(f"vocabulary: {'given' if given else 'from train'}", flush=True)
            with place.stage("vocabulary", made_from) as made:
                write_vocabulary(made, text, args)
        if 3 in stages:
            vocab = place.require("vocabulary", made_from)
            with place.stage("data", made_from) as made:
                write_data(made, text, vocab, made_from, args)
            place.publish()
            print(f"{dest} is complete")


def main(argv: Sequence[str] | None = None) -> None:
    """Console entry point ``infformer-prepare``."""
    try:
        run(parse(argv))
    except OSError as error:
        raise InputError(f"{error}; see that the files can be read, and that --dest can be written") from error
    except KeyboardInterrupt:
        raise InputError("interrupted; the same call takes up the work") from None


if __name__ == "__main__":
    install_one_line_messages()
    main()
