"""The width of feed-forward networks with which a model has as many parameters whatever its memory."""

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from itertools import pairwise
from typing import Any, get_args, get_origin

from fairseq_infformer.modules import memories
from fairseq_infformer.modules.layers import InfiniteFormerLayer
from fairseq_infformer.modules.pointer import Pointer
from recipes.memories import MEMORIES

REFERENCE = "continuous"  # whose models have the width that a size gives


def ffn_width(
    embed_dim: int, num_heads: int, ffn_dim: int, memory: str, arguments: Sequence[str], reference: str = REFERENCE
) -> int:
    """The width for ``memory``, where that of ``reference`` is ``ffn_dim``.

    Args:
        arguments: of fairseq-train, with the settings of the memories.
    """
    if "long-term-memory" not in MEMORIES[memory].options:  # another model
        return ffn_dim
    arguments = tuple(arguments)
    least, wanted = (parameters(embed_dim, num_heads, ffn_dim, name, arguments) for name in (memory, reference))
    unit = parameters(embed_dim, num_heads, ffn_dim + 1, memory, arguments) - least
    return ffn_dim + int((wanted - least) / unit)


@lru_cache
def parameters(embed_dim: int, num_heads: int, ffn_dim: int, memory: str, arguments: tuple[str, ...]) -> int:
    """Parameters of all layers with a memory, and of the pointer if it is one."""
    given = options(memory, arguments)
    parts = [InfiniteFormerLayer(embed_dim, num_heads, ffn_dim, 0, built(embed_dim, num_heads, memory, arguments))]
    parts *= int(given.get("--decoder-layers", 1))
    if length := int(given.get("--pointer-length", 0)):
        parts.append(Pointer(embed_dim, length, half_life=1))
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def options(memory: str, arguments: Sequence[str]) -> dict[str, str]:
    """Those of a memory, which replace those among ``arguments``."""
    return dict(pairwise(arguments)) | {f"--{name}": value for name, value in MEMORIES[memory].options.items()}


def built(embed_dim: int, num_heads: int, memory: str, arguments: Sequence[str]) -> Any:
    """A memory with its settings among ``arguments``; None for none."""
    given = options(memory, arguments)
    name = given["--long-term-memory"]
    if name == "none":
        return None
    registered = memories.MEMORIES[name]
    settings = {}
    for field in fields(registered.settings):
        if (text := given.get(f"--{registered.prefix}-{field.name}".replace("_", "-"))) is not None:
            settings[field.name] = read(text, field.type)
    return registered.memory.build(registered.settings(**settings), embed_dim, num_heads, 0)


def read(text: str, kind: Any) -> Any:
    """A setting's value from its option's."""
    if get_origin(kind) is tuple:
        return tuple(get_args(kind)[0](part) for part in text.split(","))
    return next(option for option in (get_args(kind) or (kind,)) if option is not type(None))(text)
