"""Ordinary attention over segment and short-term memory: time and peak memory of each position encoding.

Each is measured with its projections, forward and backward, in turn, beside Transformer-XL attention as its formula is
written, which keeps all scores. Prints a table and writes attention.json. Times are medians. Peak memory is what
one run adds, on a GPU to its tensors, on a CPU to the resident memory of a fresh process (Linux).
"""

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import trange

from fairseq_infformer.modules.attention import POSITION_ENCODINGS, Attention
from fairseq_infformer.modules.attention.relative import RelativeAttention, sinusoidal_distances
from fairseq_infformer.modules.layers import attention_mask
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from recipes import runs
from recipes.benchmarks.measure import peak_on_gpu, resident, wait


class PlainRelativeAttention(RelativeAttention):
    """The formula step by step, all scores at once."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        distances = self.split_heads(self.position_proj(sinusoidal_distances(keys.shape[2], self.embed_dim, keys)))
        content, position = (query + self.split_heads(bias[None]) for bias in (self.content_bias, self.position_bias))
        scores = position @ distances.mT
        padded = F.pad(scores, (1, 0)).view(*scores.shape[:2], scores.shape[3] + 1, scores.shape[2])
        scores = (padded[:, :, 1:].reshape(scores.shape) + content @ keys.mT) * query.shape[-1] ** -0.5
        weights = torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1)
        return F.dropout(weights, self.dropout, self.training) @ values


VARIANTS: dict[str, type[Attention]] = {
    "xl, all scores kept": PlainRelativeAttention,
    **{name: kind for name, kind in POSITION_ENCODINGS.items() if name != "learned"},  # which has no short-term memory
}


class Case:
    """One variant with its inputs."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.attention = VARIANTS[name](args.dim, args.heads, args.dropout).to(args.device, args.dtype)
        like = {"device": args.device, "dtype": args.dtype}
        shape = (args.batch, args.segment, args.dim)
        self.query = torch.randn(shape, requires_grad=True, **like)
        self.hidden = torch.randn(args.batch, args.stm_length + args.segment, args.dim, requires_grad=True, **like)
        self.upstream = torch.randn(shape, **like)
        recent = ShortTermMemory(self.hidden[:, : args.stm_length], torch.full((args.batch,), args.stm_length))
        self.mask = attention_mask(recent, args.segment)

    def run(self) -> tuple[float, float]:
        """Seconds of the forward and of the backward pass."""
        wait()
        start = time.perf_counter()
        context = self.attention(self.query, self.hidden, self.mask)
        wait()
        middle = time.perf_counter()
        torch.autograd.grad(context, [self.query, self.hidden, *self.attention.parameters()], self.upstream)
        wait()
        return middle - start, time.perf_counter() - middle


def peak_memory(name: str, args: argparse.Namespace) -> float:
    """MiB that one run on the CPU adds at its peak; call it in a process of its own."""
    torch.set_num_threads(args.threads)
    case = Case(name, args)
    before = resident()
    case.run()
    return (resident("VmHWM") - before) / 2**20


def parse(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder of attention.json")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of all tensors")
    parser.add_argument("--batch", type=int, default=4, help="rows")
    parser.add_argument("--segment", type=int, default=512, help="T, queries")
    parser.add_argument("--stm-length", type=int, default=512, help="past hidden states")
    parser.add_argument("--dim", type=int, default=300, help="width of the hidden states")
    parser.add_argument("--heads", type=int, default=6, help="attention heads")
    parser.add_argument("--dropout", type=float, default=0.0, help="on the attention weights")
    parser.add_argument("--threads", type=int, default=2, help="threads")
    parser.add_argument("--repeats", type=int, default=15, help="runs of each variant")
    args = parser.parse_args(argv)
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no GPU")
    args.dtype = getattr(torch, args.dtype)
    return args


def measured(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds and MiB of each variant."""
    torch.set_num_threads(args.threads)
    cases = {name: Case(name, args) for name in VARIANTS}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for number in trange(args.repeats + 1, unit="round", disable=None, leave=False):
        for name, case in cases.items():
            seconds = case.run()
            if number > 0:  # the first warms up
                times[name].append(seconds)
    results, spawn = {}, multiprocessing.get_context("spawn")
    for name, case in cases.items():
        if args.device.type == "cuda":
            memory = peak_on_gpu(case.run) / 2**20
        else:
            with spawn.Pool(1) as pool:
                memory = pool.apply(peak_memory, (name, args))
        forward, backward, both = (
            1000 * statistics.median(x) for x in zip(*((*pair, sum(pair)) for pair in times[name]))
        )
        results[name] = {"forward_ms": forward, "backward_ms": backward, "both_ms": both, "peak_mib": memory}
    return results


def main() -> None:
    args = parse()
    results = measured(args)
    slowest = results["xl, all scores kept"]
    print(f"{'':22}{'forward ms':>12}{'backward ms':>13}{'both ms':>9}{'ratio':>7}{'peak MiB':>10}{'ratio':>7}")
    for name, row in results.items():
        ratio, memory_ratio = row["both_ms"] / slowest["both_ms"], row["peak_mib"] / slowest["peak_mib"]
        print(
            f"{name:22}{row['forward_ms']:12.1f}{row['backward_ms']:13.1f}{row['both_ms']:9.1f}{ratio:7.2f}"
            f"{row['peak_mib']:10.1f}{memory_ratio:7.2f}"
        )
    settings = {key: value if isinstance(value, (int, float)) else str(value) for key, value in vars(args).items()}
    del settings["out"]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "attention.json").write_text(
        runs.strict_json({"settings": settings, "results": results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
