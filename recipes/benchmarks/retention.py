"""What a continuous memory still knows of what it read, by age, for each contraction.

A smooth signal of several channels, known without noise, is read with noise in segments. The memory after the last
segment rebuilds it at every token's position on [0, 1]; R² says how much of each segment's variance that explains.
Prints a table, and writes retention.json and retention.png (matplotlib: pip install '.[plot]').
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from fairseq_infformer.modules import ContinuousMemory, GaussianBasis
from fairseq_infformer.modules.memories.continuous import CONTRACTIONS
from recipes import launches, runs

RULES = {
    "fixed, τ = 0.5": ("fixed", 0.5),
    "fixed, τ = 0.75": ("fixed", 0.75),
    "fixed, τ = 0.9": ("fixed", 0.9),
    "proportional": ("proportional", 0.75),
    "square root": ("square-root", 0.75),
    "logarithmic": ("logarithmic", 0.75),
}
AGES = (0, 1, 2, 4, 8, 16, 32)
SINUSOIDS = 8


def smooth_signal(length: int, channels: int, segment: int, generator: torch.Generator) -> Tensor:
    """(length, channels) of variance 1: sinusoids with periods of half a segment to eight segments."""
    shape = (SINUSOIDS, 1, channels)
    period = segment * 2.0 ** (4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
    phase = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)
    t = torch.arange(length, dtype=torch.float64)[:, None]
    return torch.sin(2 * math.pi * t / period + phase).sum(0) * (2 / SINUSOIDS) ** 0.5


def r_squared_by_age(name: str, memory: ContinuousMemory, signal: Tensor, noisy: Tensor, segments: int) -> list[float]:
    """R² of each segment of ``signal`` (T, C), the newest first, after ``noisy`` (T, C) was read in segments."""
    length = len(signal) // segments
    state, ends = memory.initial_state(1, signal.shape[1]), torch.zeros(1, dtype=torch.float64)
    for number in trange(segments, desc=name, unit="segment", disable=None, leave=False):
        tokens, new = state.num_tokens, torch.tensor([length])
        tau = 0.0 if number == 0 else float(CONTRACTIONS[memory.contraction](tokens, new, memory.tau))
        ends = torch.cat([ends * tau, torch.ones(1, dtype=torch.float64)])  # where each segment ends on [0, 1]
        state = memory.write(state, noisy[None, number * length : (number + 1) * length].float())
    inside = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    positions = ends[:-1, None] + ends.diff()[:, None] * inside
    rebuilt = memory.basis.evaluate(positions.flatten()) @ state.coefficients[0].double()
    error = (rebuilt - signal).square().view(segments, -1).mean(1)
    variance = signal.view(segments, length, -1).var(dim=1, correction=0).mean(1)
    return (1 - error / variance).flip(0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--segments", type=int, default=40, help="how many segments are read")
    parser.add_argument("--length", type=int, default=512, help="vectors per segment")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation; the signal's is 1")
    parser.add_argument("--basis", type=int, default=512, help="N")
    parser.add_argument("--samples", type=int, default=512, help="M")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.005, 0.01])
    parser.add_argument("--ridge", type=float, default=1.0, help="λ")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder of the JSON and the plot")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(args.seed)
    signal = smooth_signal(args.segments * args.length, args.channels, args.length, generator)
    noisy = signal + args.noise * torch.randn(signal.shape, generator=generator, dtype=torch.float64)
    found = {}
    for name, (contraction, tau) in RULES.items():
        basis = GaussianBasis(args.basis, args.widths)
        memory = ContinuousMemory(basis, args.samples, args.ridge, contraction, tau)
        found[name] = r_squared_by_age(name, memory, signal, noisy, args.segments)

    settings = {key: value for key, value in vars(args).items() if key != "out"}
    results = {"kind": "retention", **launches.of_this_benchmark(torch.get_num_threads()), "settings": settings}
    results["r_squared_by_age"] = found
    print(table(results))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "retention.json").write_text(runs.strict_json(results, indent=2) + "\n", encoding="utf-8")
    plot(results, args.out / "retention.png")
    print(f"wrote {args.out / 'retention.json'} and {args.out / 'retention.png'}")


def table(results: runs.Record) -> str:
    """R² at some ages for each contraction."""
    ages = [age for age in AGES if age < results["settings"]["segments"]]
    rows = [[name, *(f"{by_age[age]:.2f}" for age in ages)] for name, by_age in results["r_squared_by_age"].items()]
    return runs.markdown(["R² by age in segments", *map(str, ages)], rows)


def plot(results: runs.Record, path: Path) -> None:
    """R² against age, a line for each contraction."""
    try:
        from matplotlib import pyplot
    except ImportError:
        sys.exit("error: no matplotlib for the plot; pip install '.[plot]'")
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, r_squared in results["r_squared_by_age"].items():
        axes.plot(r_squared, label=name, linewidth=2.5 if name == "proportional" else 1.5)
    axes.set(xlabel="age in segments", ylabel="R² of what was read", ylim=(-1, 1.05), title="What the memory retains")
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
