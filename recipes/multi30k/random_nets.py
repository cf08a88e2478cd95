"""Draw an architecture at random that has as many parameters as the one that a search has found.

Of all architectures without the operation zero whose searched nodes have, together, as many parameters as those of the
found one, to within 1 %, each is equally probable; the seed decides which it is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_infformer.cli import architecture
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import replacing
from fairseq_infformer.models.dartsformer import Architecture
from fairseq_infformer.models.dartsformer.architecture import Nodes

TOLERANCE = 0.01
LARGEST = 10**7  # combinations of the operations of one side

Counts = list[list[list[int]]]  # parameters by layer, node and operation


def counts_of(saved: dict[str, Any]) -> list[Counts]:
    """The parameters of each operation in a search's checkpoint, of encoder and decoder, over all repeated layers."""
    found = []
    for side in architecture.SIDES:
        layers, nodes, operations = saved["model"][f"{side}.layers.alpha"].shape
        counts = np.zeros((layers, nodes, operations), dtype=int)
        prefix = f"{side}.layers.sequence.layers."
        for name, weight in saved["model"].items():
            if name.startswith(prefix):
                layer, node, _, operation = name.removeprefix(prefix).split(".")[:4]
                if int(node) < nodes:  # the decoder's last is not searched
                    counts[int(layer) % layers, int(node), int(operation)] += weight.numel()
        found.append(counts.tolist())
    return found


def sums_of(names: Sequence[str], counts: Counts) -> tuple[np.ndarray, list[list[int]]]:
    """The parameters of every combination of operations of one side but zero, and the operations of each node."""
    allowed = [[k for k, name in enumerate(names) if name != "zero"] for layer in counts for _ in layer]
    total = np.zeros(1, dtype=int)
    for node, choices in zip((node for layer in counts for node in layer), allowed):
        if len(total) * len(choices) > LARGEST:
            raise InputError(f"a search of more than {LARGEST:,} combinations per side is too large to draw from")
        total = np.add.outer(total, [node[k] for k in choices]).ravel()
    return total, allowed


def size_of(found: Architecture, names: Sequence[Sequence[str]], counts: Sequence[Counts]) -> int:
    """The parameters of the searched nodes of an architecture."""
    return sum(
        nodes[own.index(name)]
        for own, side, of_side in zip(names, found, counts)
        for layer, of_layer in zip(side, of_side)
        for name, nodes in zip(layer, of_layer)
    )


def draw(size: int, names: Sequence[Sequence[str]], counts: Sequence[Counts], seed: int) -> Architecture:
    """An architecture of ``size`` parameters to within the tolerance, each with the same probability."""
    (encoder, decoder), allowed = zip(*(sums_of(own, of_side) for own, of_side in zip(names, counts)))
    order = decoder.argsort(kind="stable")
    first, last = (
        decoder[order].searchsorted(size * (1 + sign * TOLERANCE) - encoder, side=side)
        for sign, side in ((-1, "left"), (1, "right"))
    )
    ends = (last - first).cumsum()  # of the numbers of all that match, by the encoder's combination
    number = int(np.random.default_rng(seed).integers(ends[-1]))
    one = int(ends.searchsorted(number, side="right"))
    other = int(order[last[one] - (ends[one] - number)])
    return Architecture(*map(_nodes, (one, other), allowed, names, counts))


def _nodes(combination: int, allowed: list[list[int]], names: Sequence[str], counts: Counts) -> Nodes:
    """The operations of one side, of the number that a combination has among the sums."""
    chosen = iter(np.unravel_index(combination, [len(choices) for choices in allowed]))
    flat = iter(names[choices[int(number)]] for choices, number in zip(allowed, chosen))
    return tuple(tuple(next(flat) for _ in layer) for layer in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="CHECKPOINT", help="of --arch dartsformer_search")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="file of JSON, for --architecture")
    args = parser.parse_args()
    saved = architecture.load(args.path)
    names, weights = architecture.search_of(saved, args.path)
    counts = counts_of(saved)
    size = size_of(architecture.chosen_of(names, weights), names, counts)
    drawn = draw(size, names, counts, args.seed)
    with replacing(args.output) as new:
        new.write_text(drawn.to_json(), encoding="utf-8")
    print(f"{args.output}: {size_of(drawn, names, counts):,} parameters in its searched nodes, the found one {size:,}")


if __name__ == "__main__":
    install_one_line_messages()
    main()
