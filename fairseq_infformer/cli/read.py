"""Let a trained model read a text of any length, and save what it remembers as a file.

infformer-generate --memory FILE then continues from the file, as if it had just read the text.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from fairseq_infformer.cli import reading
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.text_stream import Stream


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="infformer-read", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, metavar="BOOK", help="text file, UTF-8, written as the raw training text")
    parser.add_argument("--save", type=Path, required=True, metavar="FILE", help="memory file to write")
    reading.add_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``infformer-read``."""
    args = build_parser().parse_args(argv)
    reading.check_options(args)
    text = reading.text_of(args.text, "BOOK")
    folder = args.save.resolve().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)) or args.save.is_dir():
        raise InputError(
            f"--save {args.save} cannot be written; give a file in a folder that exists and may be written to"
        )
    reader = reading.load(args)
    tokens = reader.spelling.encode(text)
    stream = Stream(reader.model, reader.segment)
    reading.read(stream, tokens)
    try:
        stream.save(args.save)
    except OSError as error:
        raise InputError(f"--save {args.save} cannot be written ({error.strerror}); give another file") from error
    print(f"{args.save}: {len(tokens):,} tokens read, {args.save.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
