"""What a model does with its memories while it reads a text: the data of every figure."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.models.streaming_lm import StreamingLanguageModel
from fairseq_infformer.modules.memories import LongTermMemory, Read, Report
from fairseq_infformer.modules.memories.ablation import ABLATIONS
from fairseq_infformer.modules.memories.continuous import ContinuousLongTermMemory, GibbsAttention
from fairseq_infformer.modules.memories.continuous.sampling import inverse_cdf
from fairseq_infformer.modules.short_term_memory import ShortTermMemory

from .line import Line

NUM_BINS = 64  # of the line, in pictures
BLOCK = 4096  # vectors that are rebuilt at once


class Look(NamedTuple):
    """Where the queries of one segment look on the line, on average, per head."""

    start: int  # how many tokens were read before the segment
    share: Tensor  # (H, D): of the attention, in each of D equal parts of [0, 1]; the rest of it is outside
    words: Tensor  # (H, 3) int64: the written vectors at its quartiles; half of the attention is between the outer two


class Observer:
    """Follows the memory of one layer through one text.

    Args:
        memory: of the layer.
    """

    def __init__(self, memory: LongTermMemory) -> None:
        self.memory = memory
        self.past: list[Tensor] = []  # what was written, (L, C) per update
        self.state: Any = None  # after the last update
        self.tokens = 0  # how many the layer has read

    @property
    def written(self) -> int:
        """How many vectors were written."""
        return sum(map(len, self.past))

    def write(self, state: Any, new: Tensor, lengths: Tensor, report: Optional[Report], after: Any) -> None:
        """Note an update of the memory before, ``state``, to the one ``after``."""
        self.past.append(new[0, : int(lengths[0])].detach())
        self.state = after

    def read(self, read: Read, lengths: Tensor) -> None:
        """Note a read by the queries of a segment."""
        self.tokens += int(lengths[0])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what the memory writes, and what is read of it."""
        write, read = self.memory.write, self.memory.read

        def written(
            state: Any,
            new: Tensor,
            lengths: Optional[Tensor] = None,
            reset: Optional[Tensor] = None,
            report: Optional[Report] = None,
        ) -> Any:
            after = write(state, new, lengths, reset, report)
            counted = torch.full((len(new),), new.shape[1]) if lengths is None else lengths
            self.write(state, new, counted, report, after)
            return after

        def reading(query: Tensor, hidden: Tensor, lengths: Tensor, state: Any, attention: Any) -> Read:
            given = read(query, hidden, lengths, state, attention)
            self.read(given, lengths)
            return given

        with replaced(self.memory, write=written, read=reading):
            yield


class LineObserver(Observer):
    """Of a continuous memory."""

    memory: ContinuousLongTermMemory

    def __init__(self, memory: ContinuousLongTermMemory) -> None:
        super().__init__(memory)
        self.line, self.looks = Line(memory.memory), []

    def write(self, state: Any, new: Tensor, lengths: Tensor, report: Optional[Report], after: Any) -> None:
        super().write(state, new, lengths, report, after)
        self.line.write(int(lengths[0]), report)

    def read(self, read: Read, lengths: Tensor) -> None:
        count = int(lengths[0])
        if len(self.line) and count:
            density = read.report.density
            edges = torch.linspace(0, 1, NUM_BINS + 1, device=density.mean.device, dtype=density.mean.dtype)
            share = density.cdf(edges).diff(dim=-1)[0, :, :count].mean(1).double().cpu()
            # Attention that is all outside is nowhere on the line: its quartiles are those of the whole.
            even = torch.full_like(share, 1 / NUM_BINS)
            inside = torch.where(share.sum(-1, keepdim=True) > 1e-9, share, even)
            quartiles = inverse_cdf(inside / inside.sum(-1, keepdim=True), torch.tensor([[0.25, 0.5, 0.75]]))
            self.looks.append(Look(self.tokens, share, self.line.vectors_at(quartiles)))
        super().read(read, lengths)

    @contextmanager
    def watching(self) -> Iterator[None]:
        attention = self.memory.attention
        with ExitStack() as stack:
            stack.enter_context(super().watching())
            if isinstance(attention, GibbsAttention):  # which gives weights to sticky sampling alone
                stack.enter_context(replaced(attention, weights=True))
            yield

    def rebuilt(self) -> Tensor:
        """(n,): of each written vector, the squared distance from what the memory has in its place."""
        past, errors = torch.cat(self.past), []
        signal, basis = self.state.coefficients[0], self.memory.memory.basis
        for vectors, centers in zip(past.split(BLOCK), self.line.centers.split(BLOCK)):
            held = basis.evaluate(centers.to(signal)) @ signal
            errors.append((held - vectors).square().sum(-1))
        return torch.cat(errors).cpu()

    def variances(self) -> Tensor:
        """(n,): of each written vector, the squared distance from the mean of all."""
        past = torch.cat(self.past)
        return (past - past.mean(0)).square().sum(-1).cpu()


class SlotObserver(Observer):
    """Of a memory that keeps vectors."""

    def __init__(self, memory: LongTermMemory) -> None:
        super().__init__(memory)
        self.updates: list[tuple[Tensor, Tensor, Optional[Report]]] = []

    def write(self, state: Any, new: Tensor, lengths: Tensor, report: Optional[Report], after: Any) -> None:
        super().write(state, new, lengths, report, after)
        self.updates.append((new.detach(), lengths, report))

    def weights(self, most: int) -> Tensor:
        """(K, n): how much of each vector that was written is in each of K slots, rows that sum to 1.

        It is the size of the derivative of the slot with respect to the vector, along one random direction, over the
        sum of those of all vectors: exactly the weights where a slot is a weighted mean.

        Args:
            most: of so many slots at most, at even distances.
        """
        with torch.enable_grad():
            given = [new.clone().requires_grad_() for new, _, _ in self.updates]
            state = self.memory.initial_state(1, given[0].device)
            for new, (_, lengths, report) in zip(given, self.updates):
                state = self.memory.write(state, new, lengths, None, report)
            slots = slots_of(state)
        if not len(slots):
            return torch.zeros(0, self.written)
        if len(slots) > most:
            slots = slots[torch.linspace(0, len(slots) - 1, most).round().long()]
        direction = torch.randn(slots.shape[-1], generator=torch.Generator().manual_seed(0)).to(slots)
        rows = []
        for slot in slots @ direction:
            gradients = torch.autograd.grad(slot, given, retain_graph=True, allow_unused=True)
            sizes = [
                new.new_zeros(int(lengths[0])) if gradient is None else gradient[0, : int(lengths[0])].norm(dim=-1)
                for gradient, new, (_, lengths, _) in zip(gradients, given, self.updates)
            ]
            rows.append(torch.cat(sizes).cpu())
        weights = torch.stack(rows)
        return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def slots_of(state: Any) -> Tensor:
    """The vectors (K, C) that a memory keeps of its only row: the first of its state's parts with any."""
    for part in state:
        if isinstance(part, ShortTermMemory):
            return part.hidden[0, part.hidden.shape[1] - int(part.lengths[0]) :]
        if isinstance(part, Tensor) and part.dim() == 3:
            return part[0]
    raise TypeError(f"a {type(state).__name__} has no part with vectors")


class Observation(NamedTuple):
    """What a model does with its memories while it reads a text."""

    losses: Tensor  # (n,): of each token, in nats
    losses_without: Tensor  # (n,): the same if nothing is read of the memories
    layers: dict[int, Observer]


@torch.no_grad()
def observe(
    model: StreamingLanguageModel, segment: int, tokens: Tensor, progress: Callable[[int], None] = lambda read: None
) -> Observation:
    """Let a model read tokens (n,), once with its memories and once without, in segments of ``segment`` tokens.

    Args:
        model: in evaluation mode. progress: is called with the number of tokens of each segment that was read.
    """
    memories = model.decoder.long_term_memories()
    observers = {
        number: (LineObserver if isinstance(memory, ContinuousLongTermMemory) else SlotObserver)(memory)
        for number, memory in memories.items()
    }
    with ExitStack() as stack:
        for observer in observers.values():
            stack.enter_context(observer.watching())
        losses = _losses(model, segment, tokens, progress)
    with ExitStack() as stack:
        for memory in memories.values():
            stack.enter_context(replaced(memory, read=ABLATIONS["zero"](memory.read)))
        losses_without = _losses(model, segment, tokens, progress)
    return Observation(losses, losses_without, observers)


def _losses(model: StreamingLanguageModel, segment: int, tokens: Tensor, progress: Callable[[int], None]) -> Tensor:
    decoder = model.decoder
    device = decoder.dictionary_checksum.device
    source = torch.cat([torch.tensor([decoder.dictionary.eos()]), tokens[:-1]])
    losses = []
    for number, (before, targets) in enumerate(zip(source.split(segment), tokens.split(segment))):
        output = model(before[None].to(device), segment=number)
        log_probs = model.get_normalized_probs(output, log_probs=True)[0]
        losses.append(F.nll_loss(log_probs, targets.to(device), reduction="none").cpu())
        progress(len(targets))
    return torch.cat(losses)


@contextmanager
def replaced(module: nn.Module, **attributes: Any) -> Iterator[None]:
    """Let a module have other methods, or plain attributes."""
    before = {name: vars(module)[name] for name in attributes if name in vars(module)}
    for name, attribute in attributes.items():
        setattr(module, name, attribute)
    try:
        yield
    finally:
        for name in attributes:
            delattr(module, name)
        for name, attribute in before.items():
            setattr(module, name, attribute)
