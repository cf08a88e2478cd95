"""Speed and memory of the continuous memory, as ratios to plain code and to ordinary attention, in one run.

  .venv/bin/python -m recipes.benchmarks.memory [--rows 1,2,3,4,5,6,7] [--repeats 15] [--threads 2] [--device cuda]
                                                [--batch 4] [--out DIR]

Both sides of a ratio are measured in turn, and the ratio is the median of the pairs' ratios, so that what else the
machine does falls on both; not evenly, though, where threads outnumber free cores, since all wait for the last one
after every pass. The load is printed with the table. --out gets memory.json, with every sample, and memory.png (needs
the extra `plot`).

row 1  write and read, forward and backward, against the paper's formulas as written, in plain eager PyTorch (plain.py)
row 2  read with all its projections, forward and backward, against softmax attention over as many slots with its own
       key and value projections, and no output projection
row 3  write, against one projection of the new vectors
row 4  training step of a 6-layer model, against the same model without a long-term memory (needs fairseq)
row 5  a token when 1,000,000 have gone through the memory, against tokens 20,000 to 40,000: write and read, and what
       the process holds in memory
row 6  an operator that is not in the cache, against 100 ms, which a write may wait for it now and then
row 7  the Gibbs read, forward and backward, evaluation of the signal included, against softmax attention over as many
       slots as the basis has centres, both with all their projections
"""

import argparse
import importlib.util
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from fairseq_infformer.modules import ContinuousAttention, ContinuousMemory, ContinuousState, GaussianBasis
from fairseq_infformer.modules.memories.continuous import GibbsAttention
from fairseq_infformer.modules.memories.continuous.operators import OPERATORS, Regression, Step, refit_operators
from recipes import launches, runs
from recipes.benchmarks.measure import in_use, paired, peak_on_gpu, progress, resident, seconds, summary, wait
from recipes.benchmarks.plain import PlainMemory, SoftmaxRead

LENGTH, BASIS, HEADS, DIM = 512, 512, 6, 300  # T = L = N = M = 512
WIDTHS, TAU = (0.01, 0.05), 0.75

# What the ratios should be at most: without a compiler at run time, and with torch.compile where --compile uses it.
TARGETS = {
    "1 time": (1 / 3, 1 / 5),
    "1 memory": (1 / 3, 1 / 5),
    "2": (0.9, 0.7),
    "3": (5.0, None),
    "4": (1.35, None),
    "5 time": (1.05, None),
    "5 memory": (1.01, None),
    "6": (1.0, None),
    "7": (1.25, None),
}
WHAT = {
    "1 time": "read + write, forward and backward, against the paper's formulas as written",
    "1 memory": "the same: peak memory",
    "2": "read with all its projections, forward and backward, against softmax attention over as many slots",
    "3": "write, against one C×C projection of the new vectors",
    "4": "training step of a 6-layer model, against `--long-term-memory none`",
    "5 time": "20,000 tokens after 1,000,000, against tokens 20,000 to 40,000, solves counted",
    "5 memory": "the same: memory in use",
    "6": "an operator that is not in the cache, against 100 ms",
    "7": "Gibbs read, forward and backward, against softmax attention over as many slots as centres",
}


def main() -> None:
    args = parse()
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak_of_a_step(args.peak, args))
        return
    results: dict[str, dict[str, Any]] = {}
    for name, result in measured(args):
        results[name] = result
        print(" | ".join(cells(name, result, args.compile)), flush=True)
    report = {
        "kind": "memory",
        **launches.of_this_benchmark(args.threads),
        "machine": machine(args),
        "results": results,
    }
    print(f"\n{table(report)}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "memory.json").write_text(runs.strict_json(report, indent=1) + "\n", encoding="utf-8")
        plot(report, args.out / "memory.png")


def measured(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and result of each part of the rows asked for."""
    for row in args.rows:
        yield from ROWS[row](args)


def parse(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows, with commas between (default: all)")
    parser.add_argument("--repeats", type=int, default=15, help="pairs of measurements (default: 15)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--batch", type=int, default=4, help="rows of the memory (default: 4)")
    parser.add_argument("--compile", action="store_true", help="rows 1 and 2: put torch.compile on the read")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="row 5: tokens of each stream (default: 1000000)")
    parser.add_argument("--out", type=Path, help="folder for memory.json and memory.png")
    parser.add_argument("--peak", choices=["ours", "plain"], help=argparse.SUPPRESS)  # a process of row 1
    args = parser.parse_args(argv)
    args.rows = args.rows.split(",")
    if not set(args.rows) <= set(ROWS):
        parser.error(f"--rows takes some of {','.join(ROWS)}, got {','.join(args.rows)}")
    if min(args.repeats, args.threads, args.batch) < 1:
        parser.error(
            f"--repeats, --threads and --batch must be positive, got {args.repeats}, {args.threads} and {args.batch}"
        )
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no GPU")
    if args.tokens < 80_000:
        parser.error(f"--tokens must be 80000 or more, got {args.tokens}")
    if args.out and importlib.util.find_spec("matplotlib") is None:
        parser.error("--out draws a plot with matplotlib: pip install 'fairseq-infformer[plot]', or leave out --out")
    return args


# ---- Rows 1 to 3: the memory alone


def random_state(args: argparse.Namespace) -> ContinuousState:
    """A memory that has been written to."""
    memory = ContinuousMemory(GaussianBasis(BASIS, WIDTHS), LENGTH, contraction="fixed", tau=TAU)
    new = torch.randn(args.batch, LENGTH, DIM, device=args.device)
    return memory.write(memory.initial_state(args.batch, DIM, args.device), new)


def sides(args: argparse.Namespace, compiled: bool = False) -> dict[str, Callable[[int], list[Tensor]]]:
    """One write of new vectors and one read of what came out, forward and backward, by us and by the plain code.

    Both are functions of the number of queries and of new vectors, with results that are the same: the context, and
    the gradients of the new vectors, of the query and of the parameters.
    """
    torch.manual_seed(0)
    basis = GaussianBasis(BASIS, WIDTHS)
    memory = ContinuousMemory(basis, LENGTH, contraction="fixed", tau=TAU)
    attention = ContinuousAttention(DIM, HEADS, basis, "gaussian", min_sigma=0.0, flat_start=True).to(args.device)
    plain = PlainMemory(DIM, HEADS, BASIS, WIDTHS, LENGTH, memory.ridge, TAU).to(args.device)
    plain.load_state_dict(attention.state_dict(), strict=False)
    read = torch.compile(attention) if compiled else attention
    state = random_state(args)
    x, query, grad = (torch.randn(args.batch, LENGTH, DIM, device=args.device) for _ in range(3))

    def step(forward: Callable[[Tensor, Tensor], Tensor], module: torch.nn.Module, length: int) -> list[Tensor]:
        new, asked = (t[:, :length].clone().requires_grad_() for t in (x, query))
        module.zero_grad()
        context = forward(asked, new)
        context.backward(grad[:, :length])
        return [context.detach(), new.grad, asked.grad, *(p.grad for _, p in sorted(module.named_parameters()))]

    return {
        "ours": lambda length=LENGTH: step(
            lambda q, new: read(q, memory.write(state, new).coefficients)[0], attention, length
        ),
        "plain": lambda length=LENGTH: step(
            lambda q, new: plain.read(q, plain.write(state.coefficients, new)), plain, length
        ),
    }


def write_and_read(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    side = sides(args, args.compile)
    for ours, plain in zip(side["ours"](), side["plain"]()):
        # The plain code solves its regression in float32, which costs it some digits; in float64 they agree.
        torch.testing.assert_close(ours, plain, rtol=0, atol=5e-2 * float(plain.abs().max()))
    yield "1 time", paired("row 1", side["ours"], side["plain"], args.repeats)
    if args.compile:
        return  # the compiler itself would be in the peak
    if args.device.type == "cuda":
        yield "1 memory", summary([[float(peak_on_gpu(side[name])) for name in ("ours", "plain")]], "bytes")
        return
    command = [
        sys.executable,
        "-m",
        __spec__.name,
        "--threads",
        str(args.threads),
        "--batch",
        str(args.batch),
        "--peak",
    ]
    # Every array is given back to the system as soon as it is freed, so that the peak is that of live memory.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    samples = []
    for repeat in range(3):
        progress(f"row 1, memory: {repeat + 1}/3")
        peaks = (subprocess.check_output([*command, name], env=environment, text=True) for name in ("ours", "plain"))
        samples.append([float(peak.split()[-1]) for peak in peaks])
    yield "1 memory", summary(samples, "bytes")


def peak_of_a_step(name: str, args: argparse.Namespace) -> int:
    """How far one step of row 1 raises this process' memory above what it held before, on the CPU."""
    run = sides(args)[name]
    run(8)  # libraries load and threads start
    if name == "ours":
        memory = ContinuousMemory(GaussianBasis(BASIS, WIDTHS), LENGTH, contraction="fixed", tau=TAU)
        memory.write(random_state(args), torch.zeros(args.batch, LENGTH, DIM))  # the operator is solved once in a run
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident()
    run()
    return resident("VmHWM") - before


def gibbs_against_softmax(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    torch.manual_seed(0)
    basis = GaussianBasis(BASIS, WIDTHS)
    gibbs = GibbsAttention(DIM, HEADS, basis, flat_start=True).to(args.device)
    softmax = torch.nn.Sequential(SoftmaxRead(DIM, HEADS), torch.nn.Linear(DIM, DIM, bias=False)).to(args.device)
    coefficients = random_state(args).coefficients.requires_grad_()
    slots = torch.randn(args.batch, basis.num_centers, DIM, device=args.device, requires_grad=True)
    query, grad = (torch.randn(args.batch, LENGTH, DIM, device=args.device) for _ in range(2))
    query.requires_grad_()

    def other() -> None:
        read, project = softmax
        project(read(query, slots)).backward(grad)

    yield "7", paired("row 7", lambda: gibbs(query, coefficients)[0].backward(grad), other, args.repeats)


def read_against_softmax(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    torch.manual_seed(0)
    attention = ContinuousAttention(DIM, HEADS, GaussianBasis(BASIS, WIDTHS), "gaussian").to(args.device)
    softmax = SoftmaxRead(DIM, HEADS).to(args.device)
    read = torch.compile(attention) if args.compile else attention
    coefficients = random_state(args).coefficients
    query, grad = (torch.randn(args.batch, LENGTH, DIM, device=args.device) for _ in range(2))
    query.requires_grad_()
    yield (
        "2",
        paired(
            "row 2",
            lambda: read(query, coefficients)[0].backward(grad),
            lambda: softmax(query, coefficients).backward(grad),
            args.repeats,
        ),
    )


@torch.no_grad()
def write_against_projection(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    memory, state = (
        ContinuousMemory(GaussianBasis(BASIS, WIDTHS), LENGTH, contraction="fixed", tau=TAU),
        random_state(args),
    )
    projection = torch.nn.Linear(DIM, DIM, bias=False, device=args.device)
    x = torch.randn(args.batch, LENGTH, DIM, device=args.device)
    yield "3", paired("row 3", lambda: memory.write(state, x), lambda: projection(x), max(50, args.repeats))


# ---- Row 4: the model


def training_step(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    from fairseq.data import Dictionary

    from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy
    from fairseq_infformer.models.infinite_former_lm import InfiniteFormerConfig, InfiniteFormerLM, build_decoder

    dictionary = Dictionary()
    for number in range(996):
        dictionary.add_symbol(str(number))
    criterion = LtmCrossEntropy(SimpleNamespace(target_dictionary=dictionary))

    def stepper(memory: str) -> Callable[[], None]:
        cfg = InfiniteFormerConfig(
            decoder_embed_dim=DIM,
            decoder_ffn_embed_dim=1200,
            decoder_layers=6,
            decoder_attention_heads=HEADS,
            stm_length=LENGTH,
            long_term_memory=memory,
            ltm_basis=BASIS,
            ltm_samples=LENGTH,
        )
        torch.manual_seed(0)
        model = InfiniteFormerLM(build_decoder(cfg, dictionary)).to(args.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        segment = 0

        def step() -> None:
            nonlocal segment
            tokens = torch.randint(4, len(dictionary), (args.batch, LENGTH), device=args.device)
            stream = {
                "segment": segment,
                "lengths": np.full(args.batch, LENGTH),
                "reset": np.full(args.batch, segment == 0),
            }
            sample = {
                "net_input": {"src_tokens": tokens, **stream},
                "target": tokens.roll(1),
                "ntokens": tokens.numel(),
            }
            loss, count, _ = criterion(model, sample)
            optimizer.zero_grad()
            (loss / count).backward()
            optimizer.step()
            segment += 1

        return step

    yield "4", paired("row 4", stepper("continuous"), stepper("none"), args.repeats)


# ---- Row 5: without bound


@torch.no_grad()
def a_million_tokens(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    torch.manual_seed(0)
    basis = GaussianBasis(BASIS, WIDTHS)
    memory = ContinuousMemory(basis, LENGTH)
    attention = ContinuousAttention(DIM, HEADS, basis, "gaussian").to(args.device)
    x = torch.randn(args.batch, LENGTH, DIM, device=args.device)

    def read_on(state: ContinuousState) -> ContinuousState:
        attention(x, state.coefficients)
        return memory.write(state, x)

    early: Optional[ContinuousState] = None
    state, held = memory.initial_state(args.batch, DIM, args.device), 0
    for segment in range(args.tokens // LENGTH):
        tokens = segment * LENGTH
        if tokens <= 20_000:
            early = state
        if 20_000 < tokens <= 40_000:
            held = in_use(args.device)
        if segment % 20 == 0:
            progress(f"row 5: {tokens:,}/{args.tokens:,} tokens")
        state = read_on(state)
    grown = in_use(args.device)
    # Both spans of 20,000 tokens again, in turn, each solving its own operators.
    OPERATORS.solved.clear()
    states, samples = {"late": state, "early": early}, []
    for _ in range(20_000 // LENGTH):
        times = []
        for which, before in states.items():
            wait()
            start = time.perf_counter()
            states[which] = read_on(before)
            wait()
            times.append(time.perf_counter() - start)
        samples.append(times)
    total = [sum(side) for side in zip(*samples)]
    yield "5 time", summary(samples, "s") | {"ratio": total[0] / total[1], "ours": total[0], "other": total[1]}
    yield "5 memory", summary([[grown, held]], "bytes")


# ---- Row 6: a miss of the cache


def new_operator(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    regression, step = Regression(BASIS, WIDTHS, LENGTH, ridge=1.0), Step(TAU, LENGTH)
    samples = []
    for repeat in range(args.repeats):
        progress(f"row 6: {repeat + 1}/{args.repeats}")
        samples.append([seconds(lambda: refit_operators(regression, step, False, torch.float32, args.device)), 0.1])
    yield "6", summary(samples, "s")


ROWS = {
    "1": write_and_read,
    "2": read_against_softmax,
    "3": write_against_projection,
    "4": training_step,
    "5": a_million_tokens,
    "6": new_operator,
    "7": gibbs_against_softmax,
}


# ---- Reporting


def machine(args: argparse.Namespace) -> dict[str, Any]:
    load = [round(x, 2) for x in os.getloadavg()]
    return {"threads": args.threads, "repeats": args.repeats, "compiled": args.compile, "load": load}


def target(name: str, compiled: bool) -> float:
    return TARGETS[name][compiled] or TARGETS[name][0]


def cells(name: str, result: dict[str, Any], compiled: bool) -> list[str]:
    scale, unit = (1e3, "ms") if result["unit"] == "s" else (1 / 2**20, "MiB")
    at_most = target(name, compiled)
    met = "met" if result["ratio"] <= at_most else "missed"
    times = [f"{result[side] * scale:,.1f} {unit}" for side in ("ours", "other")]
    return [f"{name.split()[0]}: {WHAT[name]}", *times, f"{result['ratio']:.3f}", f"{at_most:.2f}", met]


def table(report: runs.Record) -> str:
    """What was measured, against its target."""
    rows = [cells(name, result, report["machine"]["compiled"]) for name, result in report["results"].items()]
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    return (
        runs.markdown(["", "ours", "other", "ratio", "at most", ""], rows) + f"\n\nMedians, in row 5 sums; {machine}."
    )


def plot(report: runs.Record, path: Path) -> None:
    """Each ratio as a part of its target, with its quartiles."""
    results = report["results"]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.5 + 0.45 * len(results)))
    for place, (name, result) in enumerate(results.items()):
        at_most = target(name, report["machine"]["compiled"])
        low, high = (quartile / at_most for quartile in result["quartiles"])
        axes.barh(place, result["ratio"] / at_most, color="tab:blue" if result["ratio"] <= at_most else "tab:red")
        axes.plot([low, high], [place, place], color="black", linewidth=1)
    axes.axvline(1, color="black")
    axes.set_yticks(range(len(results)), [f"row {name}" for name in results])
    axes.invert_yaxis()
    axes.set_xlabel("ratio, in parts of its target")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
