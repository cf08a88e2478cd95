"""Turn recordings and their translations into a data folder of fairseq-train's task streaming_speech_translation."""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fairseq.data import Dictionary
from tqdm import tqdm

from fairseq_infformer.data import vocabulary
from fairseq_infformer.errors import InputError, install_one_line_messages, option
from fairseq_infformer.files import make_once, sha256
from fairseq_infformer.speech.corpus import SPLITS, read_table, write_table
from fairseq_infformer.speech.log_mel import LogMel
from fairseq_infformer.speech.wav import read_wav
from fairseq_infformer.vocabulary_files import DICTIONARY, SENTENCEPIECE

CONFIG, NORMALISATION, NOTES = "config.yaml", "cmvn.npz", "notes.json"
LAYOUT = """
RAW has train.tsv, valid.tsv and, if wanted, test.tsv, in fairseq's form: a line of names, then a row per utterance,
with tabs between columns. audio is a wav file of 16 bits and one channel, relative to RAW; also needed are id and the
column of --text; speaker and others are kept.

DEST becomes the data folder of fairseq-train:
  {split}.tsv, {split}.zip  the same rows with their log-mel features
  config.yaml               what fairseq needs to know of them
  cmvn.npz                  mean and deviation of the training features, by which all are normalised
  dict.txt                  fairseq's dictionary; with --level sentencepiece also sentencepiece.model
"""


def write_features(folder: Path, split: str, rows: list[dict[str, str]], raw: Path, features: LogMel) -> np.ndarray:
    """Write the features of a split, and its table.

    Returns:
        the sums of features and of their squares, and below them how many there are: (3, bins), float64.
    """
    sums, written = np.zeros((3, features.bins)), []
    with zipfile.ZipFile(folder / f"{split}.zip", "w", zipfile.ZIP_STORED) as archive:
        for number, row in enumerate(tqdm(rows, desc=split, disable=None)):
            file = raw / row["audio"]
            frames = features(read_wav(file, features.rate)).numpy()
            if not len(frames):
                raise InputError(f"{file} is shorter than a frame of 25 ms; remove it, or record it again")
            exact = frames.astype(np.float64)
            sums += np.stack([exact.sum(0), np.square(exact).sum(0), np.full(features.bins, len(exact))])
            with archive.open(f"{number}.npy", "w") as out:
                np.save(out, frames)
            written.append((row, number, len(frames), file))
        places = {info.filename: (info.header_offset, info.file_size) for info in archive.infolist()}
    with (folder / f"{split}.zip").open("rb") as archive_bytes:
        table = []
        for row, number, count, file in written:
            start, size = places[f"{number}.npy"]
            archive_bytes.seek(start + 26)  # the lengths of the name and of what follows it, in a local header of 30
            start += 30 + sum(np.frombuffer(archive_bytes.read(4), dtype="<u2").tolist())
            audio = f"{split}.zip:{start}:{size}"
            table.append(row | {"audio": audio, "n_frames": count, "wav": str(file.resolve())})
    write_table(folder / f"{split}.tsv", table)
    return sums


def write_vocabulary(folder: Path, text: str, args: argparse.Namespace) -> None:
    """Write the dictionary of the training text, and its sentencepiece model if the level is one."""
    lines = folder / "text.tmp"
    lines.write_text(text, encoding="utf-8")
    if args.level == "word":
        dictionary: Dictionary = vocabulary.word_dictionary(lines, args.vocab_size, workers=1)
    else:
        model = folder / SENTENCEPIECE
        vocabulary.train_sentencepiece(lines, model, args.vocab_size, "unigram")
        dictionary = vocabulary.sentencepiece_dictionary(vocabulary.load_sentencepiece(model))
    dictionary.save(str(folder / DICTIONARY))
    lines.unlink()


def write_config(folder: Path, args: argparse.Namespace) -> None:
    """Write config.yaml, whose files are relative to its folder."""
    normalise, mask = "global_cmvn", "specaugment"
    config: dict[str, Any] = {
        "audio_root": ".",
        "input_channels": 1,
        "input_feat_per_channel": args.bins,
        "sample_rate": args.rate,
        "vocab_filename": DICTIONARY,
        "shuffle": True,
        "feature_transforms": {"_train": [normalise, mask] if args.specaugment else [normalise], "_eval": [normalise]},
        normalise: {"stats_npz_path": NORMALISATION},
        mask: {
            "freq_mask_F": 27 * args.bins // 80,
            "freq_mask_N": 1,
            "time_mask_N": 1,
            "time_mask_T": 100,
            "time_mask_p": 1.0,
            "time_wrap_W": 0,
        },
    }
    if args.level == "sentencepiece":
        config["bpe_tokenizer"] = {"bpe": "sentencepiece", "sentencepiece_model": SENTENCEPIECE}
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=LAYOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="folder of the tables")
    parser.add_argument("--dest", type=Path, required=True, help="data folder to write")
    parser.add_argument("--rate", type=int, default=16000, help="samples per second (default: %(default)s)")
    parser.add_argument("--bins", type=int, default=80, help="log-mel features per frame (default: %(default)s)")
    parser.add_argument(
        "--text",
        default="tgt_text",
        metavar="COLUMN",
        help="column of the words to write: tgt_text, the translation, or src_text, for speech recognition (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--level", choices=("word", "sentencepiece"), default="word", help="tokens of the text (default: %(default)s)"
    )
    parser.add_argument(
        "--vocab-size", type=int, metavar="N", help="tokens of the dictionary (default: all words; 10000 pieces)"
    )
    parser.add_argument(
        "--specaugment", action="store_true", help="mask a band and a stretch of the features in training (SpecAugment)"
    )
    return parser


def parse() -> argparse.Namespace:
    """Read the command line; InputError names a wrong value."""
    args = build_parser().parse_args()
    for name, least in (("rate", 1000), ("bins", 4), ("vocab_size", 1)):
        if (value := getattr(args, name)) is not None and value < least:
            raise InputError(f"{option(name)} must be {least} or more, got {value}")
    if args.level == "sentencepiece" and args.vocab_size is None:
        args.vocab_size = 10000
    return args


def main() -> None:
    args = parse()
    tables = {}
    for split in SPLITS:
        if (file := args.raw / f"{split}.tsv").exists() or split != "test":
            tables[split] = read_table(file, args.text)
    dest, features = args.dest.resolve(), LogMel(args.rate, args.bins)
    made_from = {name: value for name, value in vars(args).items() if name not in ("raw", "dest")}
    made_from["raw"] = str(args.raw.resolve())
    made_from["tables"] = {split: sha256(args.raw / f"{split}.tsv") for split in tables}

    def write_all(folder: Path) -> None:
        for split, rows in tables.items():
            # fairseq reads the words of tgt_text.
            rows = [row | {"tgt_text": row[args.text]} for row in rows]
            total, squares, count = write_features(folder, split, rows, args.raw, features)
            if split == "train":
                mean = total / count
                deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-10))
                np.savez(folder / NORMALISATION, mean=mean.astype(np.float32), std=deviation.astype(np.float32))
        write_vocabulary(folder, "".join(f"{row[args.text]}\n" for row in tables["train"]), args)
        write_config(folder, args)
        (folder / NOTES).write_text(json.dumps({"made_from": made_from}, indent=2) + "\n", encoding="utf-8")

    make_once(dest, made_from, NOTES, write_all)


if __name__ == "__main__":
    install_one_line_messages()
    main()
