"""Continue a text with a trained model, which reads a prompt of any length first, and print it word by word."""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fairseq_infformer.cli import reading
from fairseq_infformer.data.spelling import Continuation
from fairseq_infformer.data.vocabulary import words_of_texts
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.text_stream import Stream


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="infformer-generate",
        description=__doc__,
        epilog="The model reads --memory, --prompt-file and --prompt, in this order; without any it starts a text. "
        "What it read does not end a line unless it ends with a line end.",
    )
    reading.add_options(parser)
    parser.add_argument("--memory", type=Path, metavar="FILE", help="memory file of this model, from infformer-read")
    parser.add_argument("--prompt-file", type=Path, metavar="BOOK", help="text file, UTF-8, of any length")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text")
    parser.add_argument(
        "--max-tokens", type=int, default=100, metavar="N", help="tokens to generate at most (default: %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="by which logits are divided; 0: always the most probable token (default: %(default)s)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.9,
        help="sample from the most probable tokens that have this share of the probability (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the samples (default: %(default)s)")
    return parser


def check_values(args: argparse.Namespace) -> None:
    """InputError names a value that an option cannot have."""
    if args.max_tokens < 1:
        raise InputError(f"--max-tokens must be 1 or more, got {args.max_tokens}")
    if not 0 <= args.temperature < math.inf:
        raise InputError(f"--temperature must be 0 or more, got {args.temperature}")
    if not 0 < args.top_p <= 1:
        raise InputError(f"--top-p must lie in (0, 1], got {args.top_p}")
    if not 0 <= args.seed < 2**63:
        raise InputError(f"--seed must lie in 0..{2**63 - 1}, got {args.seed}")
    if args.memory and not args.memory.is_file():
        raise InputError(f"--memory {args.memory} does not exist; write it with infformer-read")


def choose(log_probs: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """A word (B,) for each row of ``log_probs`` (B, V), of the most probable ones that together have ``top_p``."""
    if temperature == 0:
        return log_probs.argmax(-1)
    log_probs = log_probs.double().cpu()
    log_probs = log_probs - log_probs.amax(-1, keepdim=True)  # 0 at least stays a number, however low the temperature
    probs, order = (log_probs / temperature).softmax(-1).sort(-1, descending=True)
    beyond = probs.cumsum(-1) - probs >= top_p
    return order.gather(-1, probs.masked_fill(beyond, 0).multinomial(1, generator=generator))[:, 0]


def generate(
    stream: Stream, max_tokens: int, temperature: float = 1.0, top_p: float = 1.0, seed: int = 1
) -> Iterator[int]:
    """Tokens that continue the one text of a stream, each of which it reads, until one that ends its texts."""
    generator = torch.Generator().manual_seed(seed)
    excluded, ends = ~words_of_texts(stream.decoder.dictionary), stream.decoder.ends_of_texts()
    for _ in range(max_tokens):
        log_probs = stream.log_probs()[:, : len(excluded)].cpu().masked_fill(excluded, -torch.inf)
        token = choose(log_probs, temperature, top_p, generator)
        if int(token) in ends:
            return
        stream.read(token[:, None])
        yield int(token)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``infformer-generate``."""
    args = build_parser().parse_args(argv)
    check_values(args)
    reading.check_options(args)
    text = (reading.text_of(args.prompt_file, "--prompt-file") if args.prompt_file else "") + args.prompt
    reader = reading.load(args)
    prompt = reader.spelling.encode(text)
    if args.memory:
        stream = Stream.load(args.memory, reader.model, reader.segment)
        if len(stream.tokens_read) != 1:
            raise InputError(f"--memory {args.memory} is of {len(stream.tokens_read)} texts; give one of one text")
    else:
        stream = Stream(reader.model, reader.segment)
    reading.read(stream, prompt)
    continuation = Continuation(reader.spelling, prompt)
    for token in generate(stream, args.max_tokens, args.temperature, args.top_p, args.seed):
        print(continuation.add(token), end="", flush=True)
    print()


if __name__ == "__main__":
    main()
