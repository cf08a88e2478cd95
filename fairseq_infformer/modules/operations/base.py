"""What every operation of a search offers, and the names under which operations are known."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Optional

from torch import Tensor, nn

from fairseq_infformer.modules.registration import check_plugin
from fairseq_infformer.modules.settings import check_choice

Cache = dict[nn.Module, tuple[Tensor, ...]]


class Sizes(NamedTuple):
    """The sizes that operations of one net share."""

    width: int  # w, of the vectors
    source_width: int  # of the encoder's vectors
    heads: int  # of attention and of dynamic convolutions, a divisor of w
    hidden: int  # units of a feed-forward net
    dropout: float = 0.0


class Surroundings(NamedTuple):
    """What operations may use beside the vectors (B, T, w) that they transform."""

    pads: Optional[Tensor] = None  # (B, T) bool, True at pads; absent: there are none
    source: Optional[Tensor] = None  # the encoder's vectors (B, S, source_width)
    source_pads: Optional[Tensor] = None  # (B, S) bool
    # What causal operations keep of the vectors so far, so that the next ones can come alone: tensors whose first axis
    # is the batch. It is filled as it is used, and starts as an empty dict; absent: the vectors are the whole sequence.
    cache: Optional[Cache] = None


def reordered_cache(cache: Cache, order: Tensor) -> Cache:
    """The cache whose row i is row ``order[i]`` of this one, as when a beam search goes on with its best rows."""
    return {module: tuple(tensor.index_select(0, order) for tensor in kept) for module, kept in cache.items()}


class Operation(nn.Module, ABC):
    """Transforms vectors (B, T, w); ``forward(x, surroundings)`` gives as many of the same width.

    Args:
        sizes: of the net.
        causal: no vector may depend on later ones, and the operation works with a cache.
    """

    needs_source: ClassVar[bool] = False  # whether it reads the encoder's vectors, and so suits a decoder alone
    residual: ClassVar[bool] = True  # whether its input is added to what it gives, and the sum normalised

    def __init__(self, sizes: Sizes, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    @abstractmethod
    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        """The transformed vectors (B, T, w)."""


class _Residual(nn.Module):
    """LayerNorm(h + o(h)), with dropout on o."""

    def __init__(self, operation: Operation, sizes: Sizes) -> None:
        super().__init__()
        self.operation, self.dropout = operation, nn.Dropout(sizes.dropout)
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        return self.norm(x + self.dropout(self.operation(x, surroundings)))


class Registered(NamedTuple):
    operation: type[Operation]
    settings: dict[str, Any]


OPERATIONS: dict[str, Registered] = {}


def register_operation(name: str, **settings: Any) -> Callable[[type[Operation]], type[Operation]]:
    """Class decorator: makes an ``Operation`` known by ``name``; ``settings`` go to its constructor after its own."""

    def register(operation: type[Operation]) -> type[Operation]:
        if name in OPERATIONS:
            raise ValueError(f"an operation named {name!r} is registered already; give yours another name")
        check_plugin(operation)
        OPERATIONS[name] = Registered(operation, settings)
        return operation

    return register


def find_operation(name: str) -> type[Operation]:
    """The class registered under ``name``; SettingError if there is none."""
    check_choice("operation", name, sorted(OPERATIONS))
    return OPERATIONS[name].operation


def build_operation(name: str, sizes: Sizes, causal: bool) -> nn.Module:
    """The operation ``name`` as LayerNorm(h + o(h)), or alone if it has no residual; SettingError if there is none."""
    find_operation(name)
    operation = partial(OPERATIONS[name].operation, **OPERATIONS[name].settings)(sizes, causal)
    return _Residual(operation, sizes) if operation.residual else operation
