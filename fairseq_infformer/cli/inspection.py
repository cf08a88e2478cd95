"""Look into the memories of a trained model while it reads a text: write one HTML page with figures.

For each layer and head: where on the line of the memory attention looks, over time, and the words that are there; how
much of the layer's past can be rebuilt, by age; and perplexity with the memories and without.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from fairseq_infformer.cli import reading
from fairseq_infformer.errors import InputError
from fairseq_infformer.files import replacing
from fairseq_infformer.inspect.observation import observe
from fairseq_infformer.inspect.page import excerpt, page


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="infformer-inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reading.add_options(parser)
    parser.add_argument(
        "--text", type=Path, required=True, metavar="FILE", help="text file, UTF-8, written as the raw training text"
    )
    parser.add_argument("--save", type=Path, required=True, metavar="PAGE", help="HTML file to write")
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=10_000,
        metavar="N",
        help="tokens of the text to read at most; their vectors in all layers are kept (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``infformer-inspect``."""
    args = build_parser().parse_args(argv)
    reading.check_options(args)
    if args.max_tokens < 1:
        raise InputError(f"--max-tokens must be 1 or more, got {args.max_tokens}")
    text = reading.text_of(args.text, "--text")
    if not args.save.resolve().parent.is_dir() or args.save.is_dir():
        raise InputError(f"--save {args.save} cannot be written; give a file in a folder that exists")
    reader = reading.load(args)
    decoder = reader.model.decoder
    if not decoder.long_term_memories():
        raise InputError(f"--path {args.path} has no layer with a long-term memory; give a model that has one")
    tokens = torch.tensor(reader.spelling.encode(text)[: args.max_tokens]).long()
    with tqdm(
        total=2 * len(tokens), desc="read", unit=" tokens", unit_scale=True, disable=None, file=sys.stderr
    ) as bar:
        observation = observe(reader.model, reader.segment, tokens, bar.update)
    if not all(observer.written for observer in observation.layers.values()):
        raise InputError(
            f"--text {args.text} has {len(tokens)} tokens, none of which has left the short-term memory; give a longer "
            "text"
        )
    source = [decoder.dictionary.eos(), *tokens[:-1].tolist()][decoder.sinks :]
    facts = {
        "model": args.path,
        "text": f"{args.text}, {len(tokens):,} tokens in segments of {reader.segment}",
        "memories": ", ".join(sorted({type(each.memory).__name__ for each in observation.layers.values()})),
    }

    def words(first: int, last: int) -> str:
        return excerpt(reader.spelling.decode(source[first : last + 1]))

    made = page(observation, f"What {Path(args.path).name} remembers of {args.text.name}", facts, words, decoder.sinks)
    try:
        with replacing(args.save) as new:
            new.write_text(made, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--save {args.save} cannot be written ({error.strerror}); give another file") from error
    print(f"{args.save}: {len(observation.layers)} layers, {len(made.encode()) / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    main()
