"""The modules on a GPU against float64 on the CPU, in values and gradients: needs PyTorch alone."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from fairseq_infformer.modules import (
    DENSITIES,
    CompressiveMemory,
    ContinuousAttention,
    ContinuousLongTermMemory,
    ContinuousMemory,
    GaussianBasis,
    LongTermMemory,
)
from fairseq_infformer.modules.attention import POSITION_ENCODINGS
from fairseq_infformer.modules.layers import InfiniteFormerLayer
from fairseq_infformer.modules.memories.continuous import ADDRESSINGS, CONTRACTIONS, SAMPLINGS, naive
from fairseq_infformer.modules.memories.continuous.kernels import cpu, triton_kernels
from recipes.gpu.agreement import Row, compared

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BATCH, HEADS, DIM = 4, 6, 300


def check(device: torch.device, small: bool) -> Iterator[Row]:
    """Compare every part; ``small`` makes it cheap."""
    length, basis = sizes(small)
    if device.type == "cuda":
        used = triton_kernels(device) is not None
        yield {"what": "the read uses Triton", "ok": used, **({} if used else {"failed": "it fell back, see the log"})}
        for shape in ((2, 70, 83, 50), (24, 512, 256, 50), (8, 300, 520, 100), (3, 33, 40, 200)):
            yield compared(f"Triton kernels, (rows, queries, functions, width) {shape}", sums(shape), device)
    yield compared_with_reference(device)
    for density in DENSITIES:
        yield compared(f"read, {density}", read(basis, length, density=density), device)
    for addressing in ADDRESSINGS[1:]:
        yield compared(f"read, {addressing}", read(basis, length, addressing=addressing), device)
    for name, dtype in HALVES.items():
        yield compared(f"read, {name}", read(basis, length), device, dtype)
    for contraction in CONTRACTIONS:
        yield compared(f"write, {contraction}", write(basis, length, contraction=contraction), device)
    for sampling in SAMPLINGS[1:]:
        yield compared(f"write, {sampling}", write(basis, length, sampling=sampling), device)
    for encoding in POSITION_ENCODINGS:
        yield compared(f"layer, {encoding}", layer(None, length, encoding), device)
    for memory in MEMORIES:
        for name, dtype in {"float32": torch.float32, **HALVES}.items():
            yield compared(f"layer with {memory} memory, {name}", layer(MEMORIES[memory](basis), length), device, dtype)


def sizes(small: bool) -> tuple[int, GaussianBasis]:
    """Length of a segment and the basis."""
    return (16, GaussianBasis(32, (0.05, 0.2))) if small else (256, GaussianBasis(256, (0.01, 0.05)))


def check_compiled(device: torch.device, small: bool) -> Iterator[Row]:
    """Compare read and write under ``torch.compile``."""
    length, basis = sizes(small)
    yield compared("torch.compile, read", read(basis, length, compiled=True), device)
    yield compared("torch.compile, write", write(basis, length, compiled=True), device)


def draw(*shape: int, device: torch.device, dtype: torch.dtype, rounded: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, the same ones on every device for a state of the CPU's generator."""
    return torch.randn(*shape).to(rounded).to(device, dtype)


def sums(shape: tuple[int, int, int, int]) -> Callable[[torch.device, torch.dtype], list[Tensor]]:
    """``gaussian_sum`` and its gradients, by the Triton kernels on a GPU."""
    rows, queries, functions, dim = shape

    def compute(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        kernels = (device.type == "cuda" and triton_kernels(device)) or cpu
        mean, variance = torch.rand(rows, queries), torch.rand(rows, queries) ** 3 + 1e-3
        values, grad = torch.randn(rows, functions, dim), torch.randn(rows, queries, dim)
        mean, variance, values, grad, centers = (
            x.to(device, dtype) for x in (mean, variance, values, grad, torch.linspace(-0.2, 1.2, functions))
        )
        context = kernels.gaussian_sum(mean, variance, values, centers)
        return [context, *kernels.gaussian_sum_backward(grad, mean, variance, values, centers)]

    return compute


def compared_with_reference(device: torch.device) -> Row:
    """The read against the numerical integrals of the reference."""
    basis = GaussianBasis(16, (0.05, 0.2))
    compute = read(basis, 3, batch=2, heads=2, dim=8)

    def exact() -> list[Tensor]:
        module, query, coefficients, grad = read_case(basis, 3, 2, 2, 8, torch.device("cpu"), torch.float64)
        context, _, _ = naive.read(query, coefficients, module, "renormalized-gaussian")
        return gradients(context, grad, [query, coefficients], module)

    return compared("read, against numerical integrals", compute, device, exact=exact)


def read_case(
    basis: GaussianBasis,
    length: int,
    batch: int,
    heads: int,
    dim: int,
    device: torch.device,
    dtype: torch.dtype,
    density: str = "renormalized-gaussian",
    addressing: str = "projection",
) -> tuple[ContinuousAttention, Tensor, Tensor, Tensor]:
    """A read whose weights and arguments are the same numbers in every precision and on every device."""
    torch.manual_seed(0)
    rounded = dtype if dtype in HALVES.values() else torch.float32
    module = ContinuousAttention(dim, heads, basis, density, addressing=addressing)
    nn.init.xavier_uniform_(module.out_proj.weight)
    module = module.to(rounded).to(device, dtype)
    query, grad = (draw(batch, length, dim, device=device, dtype=dtype, rounded=rounded) for _ in range(2))
    wide = torch.float64 if dtype == torch.float64 else torch.float32  # a memory is never in half precision
    coefficients = draw(batch, basis.num_basis, dim, device=device, dtype=wide)
    # Of a mean over the queries, as a loss is: fp16 holds no sum of so many.
    return module, query.requires_grad_(), coefficients.requires_grad_(), grad / length


def read(
    basis: GaussianBasis,
    length: int,
    batch: int = BATCH,
    heads: int = HEADS,
    dim: int = DIM,
    compiled: bool = False,
    **settings: str,
) -> Callable[[torch.device, torch.dtype], list[Tensor]]:
    """``ContinuousAttention`` with its gradients."""

    def compute(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        module, query, coefficients, grad = read_case(basis, length, batch, heads, dim, device, dtype, **settings)
        forward = compiled_for(device)(module) if compiled and dtype != torch.float64 else module
        return gradients(forward(query, coefficients)[0], grad, [query, coefficients], module)

    return compute


def compiled_for(device: torch.device) -> Callable[[Callable], Callable]:
    """torch.compile: for a GPU with all that it does, on the CPU without its slow compiler."""
    return partial(torch.compile, fullgraph=True, backend="inductor" if device.type == "cuda" else "aot_eager")


def gradients(context: Tensor, grad: Tensor, arguments: list[Tensor], module: nn.Module) -> list[Tensor]:
    """A result with the gradients of arguments and parameters."""
    return [context, *torch.autograd.grad(context, [*arguments, *module.parameters()], grad)]


def write(
    basis: GaussianBasis, length: int, compiled: bool = False, **settings: str
) -> Callable[[torch.device, torch.dtype], list[Tensor]]:
    """Three writes of rows of several lengths, with the gradients of what was written."""

    def compute(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        memory = ContinuousMemory(deepcopy(basis).to(device), basis.num_basis, **settings)
        step = compiled_for(device)(memory.write) if compiled and dtype != torch.float64 else memory.write
        state = memory.initial_state(BATCH, DIM, device, dtype)
        density = DENSITIES["renormalized-gaussian"](
            *(x.to(device, dtype) for x in (torch.rand(BATCH, HEADS, length), torch.rand(BATCH, HEADS, length) + 0.01))
        )
        new = [draw(BATCH, length, DIM, device=device, dtype=dtype).requires_grad_() for _ in range(3)]
        for x, lengths in zip(new, ([length] * BATCH, [length, length // 2, 1, 0], [length] * BATCH)):
            state = step(state, x, torch.tensor(lengths), density=density)
        grad = draw(*state.coefficients.shape, device=device, dtype=dtype)
        return [state.coefficients, *torch.autograd.grad(state.coefficients, new, grad)]

    return compute


def continuous(basis: GaussianBasis) -> LongTermMemory:
    attention = ContinuousAttention(DIM, HEADS, basis, "renormalized-gaussian")
    nn.init.xavier_uniform_(attention.out_proj.weight)
    return ContinuousLongTermMemory(ContinuousMemory(basis, basis.num_basis), attention)


def compressive(basis: GaussianBasis) -> LongTermMemory:
    return CompressiveMemory(DIM, 32, 4, "conv")


MEMORIES: dict[str, Callable[[GaussianBasis], LongTermMemory]] = {"continuous": continuous, "compressive": compressive}


def layer(
    memory: LongTermMemory | None, length: int, encoding: str = "xl"
) -> Callable[[torch.device, torch.dtype], Sequence[Tensor]]:
    """A layer over three segments, with the gradients of the last one."""
    short = 0 if encoding == "learned" else length

    def compute(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        rounded = dtype if dtype in HALVES.values() else torch.float32
        # A ReLU would have its kink, where rounding decides a gradient.
        module = InfiniteFormerLayer(
            DIM, HEADS, 2 * DIM, short, deepcopy(memory), activation="gelu", position_encoding=encoding
        )
        module = module.to(rounded).to(device, dtype)
        lengths, outputs = torch.full((BATCH,), length), []
        for segment in range(3):
            x = draw(BATCH, length, DIM, device=device, dtype=dtype, rounded=rounded).requires_grad_()
            if segment == 0:
                state = module.initial_state(x)
            state = module.advance(state, torch.full((BATCH,), segment == 0))
            y, state = module(x, lengths, state)
            outputs.append(y)
        grad = draw(BATCH, length, DIM, device=device, dtype=dtype, rounded=rounded)
        learning = [p for name, p in module.named_parameters() if "compression" not in name]
        found = torch.autograd.grad(outputs[-1], [x, *learning], grad, allow_unused=True)
        return [*outputs, *(g for g in found if g is not None)]

    return compute
