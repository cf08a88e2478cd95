"""Turn raw text into a data folder that fairseq-train reads, with document boundaries and exact counts."""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.binarizer import Binarizer, VocabularyDatasetBinarizer
from fairseq.data import Dictionary
from tqdm import tqdm

from fairseq_infformer.data import corpus, tokenizer_text, vocabulary
from fairseq_infformer.data.data_folder import STATS, refuse_colon
from fairseq_infformer.errors import InputError, install_one_line_messages, option
from fairseq_infformer.files import AtomicFolder, sha256
from fairseq_infformer.vocabulary_files import (
    DICTIONARY,
    SENTENCEPIECE,
    SPELLINGS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TokenizerDictionary,
    load_dictionary,
    load_tokenizer,
)

STAGES = ("text", "vocabulary", "data")
LEVELS = ("word", "sentencepiece", "tokenizer")
# The options that do not apply to each level.
NOT_APPLICABLE = {
    "word": ("model_type", "sentencepiece_model", "tokenizer"),
    "sentencepiece": ("tokenizer",),
    "tokenizer": ("model_type", "sentencepiece_model", "vocab_size", "dict"),
}
LAYOUT = """
DEST becomes the data folder of fairseq-train:
  dict.txt                  fairseq's dictionary
  {train,valid,test}.bin    tokens; every line, even a blank one, ends with </s>, with --level tokenizer with a line
                            end
  {train,valid,test}.idx    the position and number of tokens of each line; with --level tokenizer of each document, or
                            of its parts of a million characters, which the tokenizer gets as a whole
  {split}.documents.npy     token offsets (int64) at which documents start, the first of them 0
  sentencepiece.model       with --level sentencepiece; its ids are those of dict.txt
  tokenizer.json            with --level tokenizer; dict.txt has its tokens in the order of its ids, which are those in
                            the .bin. Beside it tokenizer_config.json, if DIR has it
  stats.json                counts of each split: lines; words, separated by spaces and counting each line end as one,
                            so that exp(total loss / words) is the perplexity per word at every level; bytes of
                            UTF-8, line ends included; tokens in the .bin; unknown, tokens not in the dictionary.
                            Also the dictionary's size (all entries) and types (those that a text can contain,
                            <unk> and </s> among them)

Each split is one file, or one folder of files, in RAW whose name contains the word train, valid or test; test is
optional. The files of a folder are joined in the order of their names. Byte order marks at the start of a line are
removed, CRLF becomes LF, and the last line gets a line end.

With --documents, a document starts
  wikitext     at a line ' = Title = ' between blank lines (not at ' = = Section = = ')
  blank-line   after blank lines, which belong to the document before them; characters without width are blank
  file         at every file of a folder
  endoftext    after every line <|endoftext|>, which is not part of the text
and without it, each split is one document.

DEST appears when everything is done. Until then, the work is in DEST.partial, from which the next run continues if
this one is interrupted. Therefore DEST cannot be a mount point, only a folder inside one; and its path must not contain
':', at which fairseq splits data paths. The same call on a finished DEST changes nothing. The stages are 1 text,
2 vocabulary, 3 data.

examples:
  prepare.sh --raw wikitext-103 --dest data/wt103 --level word --documents wikitext
  prepare.sh --raw books --dest data/books --level sentencepiece --vocab-size 8000 --documents file
  prepare.sh --raw mine --dest data/mine --level word --dict data/wt103/dict.txt
  prepare.sh --raw books --dest data/books-smollm2 --level tokenizer --tokenizer SmolLM2-135M --documents file
"""


def known_level(level: str) -> str:
    """The level, unless it is one of earlier versions."""
    if level == "gpt2":
        raise argparse.ArgumentTypeError("give --level tokenizer --tokenizer DIR instead of gpt2 and --gpt2 DIR")
    return level


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="prepare.sh", description=__doc__, epilog=LAYOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="folder with the splits as UTF-8 text")
    parser.add_argument("--dest", type=Path, required=True, metavar="DIR", help="data folder to write")
    parser.add_argument(
        "--level",
        required=True,
        type=known_level,
        choices=LEVELS,
        help="what a token is: a word, a piece of sentencepiece, or one of a Hugging Face tokenizer",
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="with --level word: size of the dictionary, including fairseq's 4 special words (default: all words); "
        "with --level sentencepiece: number of pieces, including the 256 bytes (default: 8000)",
    )
    parser.add_argument(
        "--model-type", choices=("unigram", "bpe"), help="type of the sentencepiece model (default: unigram)"
    )
    parser.add_argument(
        "--documents", choices=corpus.DOCUMENT_RULES, help="where documents start (default: a split is one document)"
    )
    parser.add_argument("--dict", type=Path, metavar="FILE", help="use this dict.txt instead of making one")
    parser.add_argument(
        "--sentencepiece-model", type=Path, metavar="FILE", help="use this model instead of training one"
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="folder of a Hugging Face tokenizer or model, with tokenizer.json"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes (with --level tokenizer: threads) to binarise with (default: 1)",
    )
    parser.add_argument("--stage", type=int, default=1, metavar="A", help="first stage to run (default: 1)")
    parser.add_argument(
        "--stop-stage", type=int, default=len(STAGES), metavar="B", help="last stage to run (default: 3)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a DEST made from other text or arguments")
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; InputError names options that are wrong or do not go together."""
    args = build_parser().parse_args(argv)

    if args.vocab_size is not None and args.vocab_size < 5:
        raise InputError(f"--vocab-size {args.vocab_size} leaves no room for words; give at least 5")
    if args.workers < 1:
        raise InputError(f"--workers must be 1 or more, got {args.workers}")
    if not 1 <= args.stage <= args.stop_stage <= len(STAGES):
        raise InputError(
            f"--stage {args.stage} --stop-stage {args.stop_stage} is not a range of stages; give two of 1 to "
            f"{len(STAGES)} in order"
        )
    for name in NOT_APPLICABLE[args.level]:
        if getattr(args, name) is not None:
            raise InputError(f"{option(name)} does not apply to --level {args.level}; leave it out")
    new = [name for name in ("vocab_size", "model_type") if getattr(args, name) is not None]
    given = [name for name in ("dict", "sentencepiece_model") if getattr(args, name) is not None]
    if new and given:
        raise InputError(f"{option(new[0])} cannot be combined with {option(given[0])}; leave one of them out")
    if args.level == "tokenizer" and not args.tokenizer:
        raise InputError("--level tokenizer needs --tokenizer; give the folder of the model whose tokens to use")
    if args.level != "sentencepiece":
        return args
    if args.dict and not args.sentencepiece_model:
        raise InputError(f"--dict {args.dict} needs the model it was made with; also give --sentencepiece-model")
    if not args.sentencepiece_model:
        args.vocab_size, args.model_type = args.vocab_size or 8000, args.model_type or "unigram"
    return args


def check_folders(raw: Path, dest: Path, partial: Path) -> None:
    """InputError if writing to ``dest`` would change the raw text, or a file that this program did not write."""
    for written in (dest, partial):
        if raw.is_relative_to(written) or written.is_relative_to(raw):
            raise InputError(f"--dest {dest} and --raw {raw} contain one another; give a --dest elsewhere")
    if dest.exists() and not dest.is_dir():
        raise InputError(f"--dest {dest} is a file; give a folder, which need not exist yet")


def is_done(dest: Path, made_from: dict[str, Any], overwrite: bool) -> bool:
    """Whether DEST exists and was made from this; InputError if it holds anything that must not be removed."""
    if not dest.exists() or not any(dest.iterdir()):
        return False
    try:
        earlier = json.loads((dest / STATS).read_text(encoding="utf-8"))["made_from"]
        differing = [key for key in made_from if earlier.get(key) != made_from[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"--dest {dest} holds other files; give a folder that is new or empty") from None
    if not overwrite:
        if differing:
            raise InputError(
                f"--dest {dest} was made with other {', '.join(differing)}; give --overwrite or another --dest"
            )
        return True
    own = {DICTIONARY, STATS, *SPELLINGS}
    own |= {f"{split}.{end}" for split in corpus.SPLITS for end in ("bin", "idx", "documents.npy")}
    if others := sorted(path.name for path in dest.iterdir() if path.name not in own):
        raise InputError(f"--overwrite would remove {others[0]} from {dest}; move it elsewhere")
    return False


def check_given(args: argparse.Namespace) -> None:
    """InputError, before there is work to lose, if the user gives a vocabulary that cannot be used."""
    dictionary = args.dict and load_dictionary(args.dict)
    if dictionary and args.dict.read_text(encoding="utf-8").startswith(corpus.BYTE_ORDER_MARK):
        raise InputError(f"--dict {args.dict} starts with a byte order mark, which is never in a text; remove it")
    if isinstance(dictionary, TokenizerDictionary):
        raise InputError(f"--dict {args.dict} has a tokenizer's tokens; give --level tokenizer --tokenizer instead")
    processor = args.sentencepiece_model and vocabulary.load_sentencepiece(args.sentencepiece_model)
    if processor:
        vocabulary.check_reserved(processor)
    if dictionary and processor:
        vocabulary.check_pieces(
            processor, dictionary, f"--sentencepiece-model {args.sentencepiece_model}", f"--dict {args.dict}"
        )
    if args.tokenizer:
        load_tokenizer(args.tokenizer, f"--tokenizer {args.tokenizer}")


def write_text(folder: Path, splits: dict[str, list[Path]], args: argparse.Namespace) -> None:
    """Stage 1: clean text, counts and document starts of every split."""
    counts = {}
    for split, files in splits.items():
        size = sum(file.stat().st_size for file in files)
        with tqdm(total=size, desc=f"read {split}", unit="B", unit_scale=True, disable=None) as bar:
            reserved = vocabulary.RESERVED if args.level == "word" else frozenset()
            counts[split], starts = corpus.clean(files, folder / f"{split}.txt", args.documents, reserved, bar.update)
        np.save(folder / f"{split}.starts.npy", starts)
    (folder / "counts.json").write_text(json.dumps(counts, allow_nan=False))


def write_vocabulary(folder: Path, text: Path, args: argparse.Namespace) -> None:
    """Stage 2: the dictionary, and the sentencepiece model or the files of a tokenizer that go with it."""
    model, dictionary = folder / SENTENCEPIECE, folder / DICTIONARY
    if args.level == "tokenizer":
        for file in tokenizer_files(args.tokenizer):
            shutil.copyfile(file, folder / file.name)
        TokenizerDictionary.of(load_tokenizer(folder, str(folder))).save(str(dictionary))
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


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a Hugging Face tokenizer that a data folder keeps, so that an exported model can have them."""
    return [folder / name for name in (TOKENIZER, TOKENIZER_CONFIG) if (folder / name).is_file()]


def write_data(folder: Path, text: Path, vocab: Path, made_from: dict[str, Any], args: argparse.Namespace) -> None:
    """Stage 3: binarised splits, document offsets and stats.json."""
    for name in (DICTIONARY, *SPELLINGS):
        if (vocab / name).exists():
            shutil.copyfile(vocab / name, folder / name)
    dictionary = load_dictionary(folder / DICTIONARY)
    splits = {}
    for split, counts in json.loads((text / "counts.json").read_text()).items():
        starts = np.load(text / f"{split}.starts.npy")
        source, prefix = text / f"{split}.txt", folder / split
        if args.level == "tokenizer":
            documents, tokens, unknown = tokenizer_text.binarize(
                source, starts, prefix, load_tokenizer(folder, str(folder)), len(dictionary), args.workers
            )
        else:
            binarizer = line_binarizer(args.level, folder, dictionary)
            sizes, unknown = vocabulary.binarize(
                source, prefix, binarizer, len(dictionary), args.workers, counts["lines"]
            )
            # The offset of a line is the number of tokens in the lines before it.
            documents, tokens = (np.cumsum(sizes) - sizes)[starts], int(sizes.sum())
        np.save(folder / f"{split}.documents.npy", documents)
        splits[split] = {"documents": len(documents), **counts, "tokens": tokens, "unknown": unknown}
        print(f"{split}: " + ", ".join(f"{number:,} {name}" for name, number in splits[split].items()), flush=True)

    stats = {
        "level": args.level,
        "documents_rule": args.documents,
        "dictionary": {
            "types": vocabulary.count_types(dictionary),
            "size": len(dictionary),
            "sha256": sha256(folder / DICTIONARY),
        },
        "splits": splits,
        "made_from": made_from,
    }
    notes = json.dumps(stats, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / STATS).write_text(notes + "\n", encoding="utf-8")


def line_binarizer(level: str, folder: Path, dictionary: Dictionary) -> Binarizer:
    """What encodes a line at a level, with the vocabulary in a folder."""
    if level == "sentencepiece":
        return vocabulary.SentencePieceBinarizer(vocabulary.load_sentencepiece(folder / SENTENCEPIECE), dictionary)
    return VocabularyDatasetBinarizer(dictionary)


def run(args: argparse.Namespace) -> None:
    """Run the stages that ``args`` names."""
    refuse_colon(args.dest)
    raw, dest = args.raw.resolve(), args.dest.resolve()
    atomic = AtomicFolder(dest, STAGES)
    check_folders(raw, dest, atomic.folder)
    check_given(args)
    splits = find_files(raw, dest, args.documents)
    text_from = {
        "level": args.level,
        "documents": args.documents,
        "files": {split: {file.name: sha256(file) for file in files} for split, files in splits.items()},
    }
    made_from = text_from | {
        "vocab_size": args.vocab_size,
        "model_type": args.model_type,
        "dict": args.dict and sha256(args.dict),
        "sentencepiece_model": args.sentencepiece_model and sha256(args.sentencepiece_model),
        "tokenizer": args.tokenizer and {file.name: sha256(file) for file in tokenizer_files(args.tokenizer)},
    }
    if is_done(dest, made_from, args.overwrite):
        if atomic.folder.exists():
            with atomic.opened():
                atomic.clear()
        print(f"{dest} exists, made from the same text and arguments: nothing to do")
        return
    with atomic.opened():
        run_stages(atomic, splits, text_from, made_from, args)


def find_files(raw: Path, dest: Path, documents: str | None) -> dict[str, list[Path]]:
    """The files of each split, which are also printed."""
    entries = corpus.find_splits(raw)
    for split, entry in entries.items():
        if documents == "file" and not entry.is_dir():
            raise InputError(f"--documents file needs folders, but {split} is the file {entry}; put it in a folder")
    splits = {split: corpus.files_of(entry) for split, entry in entries.items()}
    for split, entry in entries.items():
        print(f"{split}: {entry}, {len(splits[split])} file(s)", flush=True)
    if "test" not in entries:
        print(f"test: no name in {raw} contains this word, so {dest} will have no test split", flush=True)
    return splits


def run_stages(
    atomic: AtomicFolder,
    splits: dict[str, list[Path]],
    text_from: dict[str, Any],
    made_from: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Run the stages that ``args`` names on the files of each split.

    Args:
        text_from: all that the text depends on. made_from: all that the vocabulary and the data depend on.
    """
    stages = range(args.stage, args.stop_stage + 1)
    if 1 in stages:
        atomic.clear()
        with atomic.stage("text", text_from) as folder:
            write_text(folder, splits, args)
    text = atomic.require("text", text_from)
    if 2 in stages:
        given = args.dict or args.sentencepiece_model or args.tokenizer
        print(f"vocabulary: {'given' if given else 'made from train'}", flush=True)
        with atomic.stage("vocabulary", made_from) as folder:
            write_vocabulary(folder, text, args)
    if 3 in stages:
        vocab = atomic.require("vocabulary", made_from)
        with atomic.stage("data", made_from) as folder:
            write_data(folder, text, vocab, made_from, args)
        atomic.publish()
        print(f"{atomic.dest} is complete")


def main(argv: Sequence[str] | None = None) -> None:
    """Console entry point ``infformer-prepare``."""
    try:
        run(parse(argv))
    except OSError as error:
        raise InputError(f"{error}; check that the files can be read, and that --dest can be written") from error
    except KeyboardInterrupt:
        raise InputError("interrupted; repeat the same call to continue") from None


if __name__ == "__main__":
    install_one_line_messages()
    main()
