"""What a token costs against how many were read: a continuous memory beside attention to all that was read.

One stream of segments of 512 vectors goes through one layer's memory, write and read, forward alone, every solve of
an operator counted. Beside it a layer of softmax attention, with the keys and values of all tokens before kept, is
timed at some lengths. Prints a table; --out gets cost.json, which recipes.plot draws.
"""

import argparse
import logging
import statistics
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from fairseq_infformer.modules import ContinuousAttention, ContinuousMemory, GaussianBasis
from recipes import launches, runs
from recipes.benchmarks.measure import progress, seconds

LENGTH, BASIS, WIDTHS, HEADS, DIM = 512, 512, (0.01, 0.05), 6, 300


def continuous(tokens: int) -> runs.Record:
    """Seconds per token while a stream is read: the mean since half as many tokens were read, at powers of two."""
    basis = GaussianBasis(BASIS, WIDTHS)
    memory = ContinuousMemory(basis, LENGTH)
    attention = ContinuousAttention(DIM, HEADS, basis, "gaussian")
    x, state = torch.randn(1, LENGTH, DIM), memory.initial_state(1, DIM)
    for _ in range(3):  # what PyTorch sets up at first
        attention(x, memory.write(state, x).coefficients)
    found: dict[int, list[float]] = {}
    for number in range(tokens // LENGTH):
        start = time.perf_counter()
        attention(x, state.coefficients)
        state = memory.write(state, x)
        read = LENGTH << number.bit_length()
        found.setdefault(read, []).append((time.perf_counter() - start) / LENGTH)
        if number % 20 == 0:
            progress(f"memory: {number * LENGTH:,}/{tokens:,} tokens")
    whole = [read for read in found if read <= tokens]
    means = [statistics.mean(found[read]) for read in whole]
    return {"memory": "continuous", "tokens": whole, "seconds_a_token": means}


def full_attention(tokens: int, repeats: int) -> runs.Record:
    """Seconds per token of a segment that attends to ``tokens`` before it, at powers of two: the median of some."""
    query_key_value, out_proj = torch.nn.Linear(DIM, 3 * DIM, bias=False), torch.nn.Linear(DIM, DIM, bias=False)
    x, reach, found = torch.randn(1, LENGTH, DIM), LENGTH, {}
    while reach <= tokens:
        keys, values = (torch.randn(1, HEADS, reach, DIM // HEADS) for _ in range(2))

        def segment(keys: torch.Tensor = keys, values: torch.Tensor = values) -> None:
            query, key, value = query_key_value(x).view(1, LENGTH, 3 * HEADS, -1).transpose(1, 2).chunk(3, dim=1)
            # The kept tokens alone: a mask over the segment's own would cost more than it.
            context = F.scaled_dot_product_attention(query, keys, values)
            context = context + F.scaled_dot_product_attention(query, key, value, is_causal=True)
            out_proj(context.transpose(1, 2).reshape(1, LENGTH, DIM))

        segment()
        progress(f"attention: {reach:,}/{tokens:,} tokens")
        found[reach] = statistics.median(seconds(segment) for _ in range(repeats)) / LENGTH
        reach *= 2
    return {"memory": "attention", "tokens": list(found), "seconds_a_token": list(found.values())}


def table(results: runs.Record) -> str:
    """Microseconds per token, and how much longer attention to everything takes."""
    ours, other = (dict(zip(run["tokens"], run["seconds_a_token"])) for run in results["runs"])
    rows = [
        [f"{reach:,}", f"{1e6 * ours[reach]:.1f}", f"{1e6 * other[reach]:.1f}", f"{other[reach] / ours[reach]:.1f}"]
        for reach in sorted(ours.keys() & other.keys())
    ]
    return runs.markdown(["tokens read", "∞-former, µs per token", "attention to all, µs per token", "ratio"], rows)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1 << 20, help="how many are read (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of attention (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    parser.add_argument("--out", type=Path, help="folder for cost.json")
    args = parser.parse_args()
    if args.tokens < LENGTH or args.repeats < 1 or args.threads < 1:
        parser.error(f"--tokens takes {LENGTH} or more, --repeats and --threads 1 or more")
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found = [continuous(args.tokens), full_attention(args.tokens, args.repeats)]
    results = {"kind": "cost", **launches.of_this_benchmark(args.threads), "runs": found}
    print(table(results))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        runs.write(args.out / "cost.json", results)


if __name__ == "__main__":
    main()
