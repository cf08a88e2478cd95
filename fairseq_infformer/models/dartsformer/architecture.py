"""An architecture: the operation of every node that a search chooses, as a value and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.modules.operations import OPERATIONS

Nodes = tuple[tuple[str, ...], ...]  # the name of the operation, by layer and node


class Architecture(NamedTuple):
    """The operations of consecutive layers, which repeat until a net has all its layers.

    A layer of the encoder has n nodes. One of the decoder has n + 1, of which the last is always cross-attention and
    is not listed.
    """

    encoder: Nodes
    decoder: Nodes

    @property
    def splits(self) -> int:
        """n."""
        return len(self.encoder[0])

    def to_json(self) -> str:
        """Indented by layer, so that one can read it."""
        sides = (
            f'  "{side}": [\n' + ",\n".join(f"    {json.dumps(layer)}" for layer in layers) + "\n  ]"
            for side, layers in self._asdict().items()
        )
        return "{\n" + ",\n".join(sides) + "\n}\n"


def read_architecture(given: str) -> Architecture:
    """The architecture in a file, or in a text that begins with ``{``; InputError names what is wrong in it."""
    if given.lstrip().startswith("{"):
        return _parsed(given, "the architecture in the checkpoint")
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise InputError(f"--architecture {given} cannot be read ({reason}); give a file of JSON") from error
    return _parsed(text, f"--architecture {given}")


def _parsed(text: str, source: str) -> Architecture:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(
            f"{source} is not JSON ({one_line(error)}); infformer-architecture writes such files"
        ) from error
    if not isinstance(value, dict) or set(value) != {"encoder", "decoder"}:
        raise InputError(f"{source} must have exactly the entries encoder and decoder; give one that has")
    for side in ("encoder", "decoder"):
        _check(value[side], side, source)
    architecture = Architecture(*(tuple(map(tuple, value[side])) for side in ("encoder", "decoder")))
    sizes = {(len(layers), len(layer)) for layers in architecture for layer in layers}
    if len(architecture.encoder) != len(architecture.decoder):
        raise InputError(
            f"{source} needs as many layers in the encoder as in the decoder, got {len(architecture.encoder)} and "
            f"{len(architecture.decoder)}"
        )
    if len(sizes) > 1 or architecture.splits < 2:
        counts = "; ".join(
            f"{side} {' and '.join(str(len(layer)) for layer in layers)}"
            for side, layers in architecture._asdict().items()
        )
        raise InputError(f"{source} needs as many nodes, 2 or more, in every layer of both sides, got {counts}")
    return architecture


def _check(layers: Any, side: str, source: str) -> None:
    """InputError unless this is a list of layers of names of operations for this side."""
    if not (isinstance(layers, list) and layers and all(isinstance(layer, list) and layer for layer in layers)):
        raise InputError(f"{source} must have a list of layers as {side}, each a list of operations")
    known = operations_for(side)
    for number, layer in enumerate(layers):
        for name in layer:
            where = f"{source} has {name!r} in layer {number} of the {side}"
            if name == "zero":
                raise InputError(f"{where}, which would leave its node empty; give another operation")
            if not isinstance(name, str) or name not in known:
                raise InputError(f"{where}; give one of {', '.join(sorted(known - {'zero'}))}")


def operations_for(side: str) -> set[str]:
    """The names of the operations that suit the ``encoder`` or the ``decoder``."""
    return {name for name, known in OPERATIONS.items() if side == "decoder" or not known.operation.needs_source}


def chosen(names: Sequence[str], weights: Sequence[Sequence[Sequence[float]]]) -> Nodes:
    """The operations with the greatest weight (layers, nodes, operations) in each node, but for zero."""
    candidates = [number for number, name in enumerate(names) if name != "zero"]
    return tuple(tuple(names[max(candidates, key=lambda number: node[number])] for node in layer) for layer in weights)
