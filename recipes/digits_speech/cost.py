"""How long an encoder of speech works on a segment, by how long it has heard: JSON, in milliseconds.

A streaming encoder hears a stream of noise from its start to its end. One of whole utterances encodes as much as it
would have heard by then, and no more than five minutes, since its work grows with the square.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from fairseq_infformer.cli.simultaneous import load
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.modules.speech_stream import SegmentStream
from fairseq_infformer.modules.streaming_encoder import StreamingEncoder
from fairseq_infformer.modules.whole_encoder import WholeEncoder

FRAMES = 100  # per second
LONGEST = 300  # seconds, of an encoder of whole utterances
REPEATED = 20  # segments, or encodings, whose median counts
BUDGET = 10.0  # seconds, after which no encoding is repeated


def of_stream(encoder: StreamingEncoder, heard: list[int]) -> Iterator[float]:
    """Milliseconds per segment at the end of each of ``heard`` seconds."""
    stream, noise = SegmentStream(encoder), torch.Generator().manual_seed(1)
    times, read = [], 0
    for seconds in heard:
        while read < seconds * FRAMES:
            frames = torch.randn(encoder.segment_size, encoder.features, generator=noise)
            start = time.perf_counter()
            stream.push(frames)
            times.append(1000 * (time.perf_counter() - start))
            read += encoder.segment_size
        yield median(times[-REPEATED:])


@torch.no_grad()
def of_whole(encoder: WholeEncoder, features: int, heard: list[int]) -> Iterator[float]:
    """Milliseconds per encoding of ``heard`` seconds."""
    for seconds in heard:
        frames, times = torch.randn(1, seconds * FRAMES, features), []
        while len(times) < REPEATED and sum(times) < 1000 * BUDGET:
            start = time.perf_counter()
            encoder(frames, torch.tensor([frames.shape[1]]))
            times.append(1000 * (time.perf_counter() - start))
        yield median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="checkpoint")
    parser.add_argument("data", type=Path, help="its data folder")
    parser.add_argument("--heard", required=True, metavar="S,S", help="seconds that increase")
    args = parser.parse_args()
    heard = [int(seconds) for seconds in args.heard.split(",")]
    if heard != sorted(set(heard)) or heard[0] < 1:
        raise InputError(f"--heard must be seconds that increase, got {args.heard}")
    model, task = load(args.path, args.data)
    encoder = model.encoder.speech
    if isinstance(encoder, WholeEncoder):
        heard = [seconds for seconds in heard if seconds <= LONGEST]
        times = of_whole(encoder, task.data_cfg.input_feat_per_channel, heard)
    else:
        times = of_stream(encoder, heard)
    print(json.dumps({"heard": heard, "milliseconds": [round(each, 3) for each in times]}))


if __name__ == "__main__":
    install_one_line_messages()
    main()
