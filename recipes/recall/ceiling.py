"""How much of the facts a continuous memory still holds by distance, for an ideal reader: the ceiling of recall.

Nothing is trained. Each fact is one vector, drawn for its key and value; the words around it and the filler are random
vectors of the same length. The memory is written in segments, and read at the position and with the width that serve
best for the fact at the distance (chosen on half of the documents, scored on the others); the value whose vector is
nearest to what was read is the answer. With sticky sampling, the share --look of the attention stays on the facts, and
the rest lies evenly. Prints a table: correct answers in per cent.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from fairseq_infformer.modules import ContinuousMemory, GaussianBasis
from fairseq_infformer.modules.memories.continuous import CONTRACTIONS
from fairseq_infformer.modules.memories.continuous.density import find_density
from recipes.memories import TABLE

# One memory for each rule of writing: how a trained model would read it makes no difference to an ideal reader.
BY_RULE: dict[tuple[str, str], str] = {}
for each in TABLE:
    if each.options["long-term-memory"] == "continuous":
        BY_RULE.setdefault((each.options["ltm-contraction"], each.options["ltm-sampling"]), each.name)


class Facts(NamedTuple):
    """What documents state: vectors of every key and value (F, V, C), and the values stated (B, F)."""

    codes: Tensor
    stated: Tensor

    def words(self, generator: torch.Generator) -> Tensor:
        """(B, 3F, C): two other words before each fact's vector."""
        documents, facts = self.stated.shape
        words = torch.randn(documents, facts, 3, self.codes.shape[2], generator=generator)
        words[:, :, 2] = self.codes[torch.arange(facts), self.stated]
        return words.flatten(1, 2)

    def accuracy(self, reads: Tensor) -> Tensor:
        """Which of the answers (B, G, F) that reads (B, G, C) give are correct, 1 or 0."""
        scores = torch.einsum("bgc,fvc->bgfv", reads, self.codes)
        return (scores.argmax(-1) == self.stated[:, None]).float()


def looks(share: float, end: float, documents: int) -> Tensor:
    """Attention of which ``share`` lies on the facts, [0, end], and the rest evenly on [0, 1]."""
    heads = 20
    on_facts = round(share * heads)
    inside = (torch.arange(on_facts) + 0.5) / max(1, on_facts) * end
    outside = (torch.arange(heads - on_facts) + 0.5) / max(1, heads - on_facts)
    mean = torch.cat([inside, outside])
    width = torch.cat([torch.full_like(inside, end / max(1, on_facts)), torch.full_like(outside, 1 / heads)])
    density = find_density("truncated-gaussian")
    return density(*(x[None, :, None].expand(documents, -1, 1) for x in (mean, (width / 2).square())))


def by_distance(memory: ContinuousMemory, facts: Facts, args: argparse.Namespace) -> Iterator[float]:
    """Accuracy at each of ``args.distances``."""
    generator = torch.Generator().manual_seed(args.seed)
    documents, pairs = facts.stated.shape
    words, read, end = facts.words(generator), 0, 1.0
    state, density = memory.initial_state(documents, args.dim), None
    for distance in args.distances:
        while read < distance + 3 * pairs:
            filler = torch.randn(documents, args.segment, args.dim, generator=generator)
            x = torch.cat([words, filler], dim=1)[:, : args.segment]
            words = words[:, args.segment :]
            if read:
                tau = float(
                    CONTRACTIONS[memory.contraction](state.num_tokens[:1], torch.tensor([x.shape[1]]), memory.tau)
                )
                stays = end if density is None else args.look + (1 - args.look) * end
            state = memory.write(state, x, density=density)
            end = tau * stays if read else 3 * pairs / x.shape[1]
            read += x.shape[1]
            density = looks(args.look, end, documents) if memory.sampling != "uniform" else None
        positions = torch.linspace(0, 1, 41)[None] * torch.tensor([0.01, 0.03, 0.1, 0.3, 1.0])[:, None]
        widths = torch.tensor([1.0, 2.0, 4.0])[:, None] * min(memory.basis.widths)
        positions, widths = torch.cartesian_prod(positions.flatten(), widths.flatten()).T
        reads = memory.basis.expected(positions, widths.square()) @ state.coefficients
        right = facts.accuracy(reads)
        half = documents // 2
        best = right[:half].mean(0).argmax(0)  # (F,)
        yield float(right[half:, best, torch.arange(pairs)].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--distances", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--facts", type=int, default=4)
    parser.add_argument("--values", type=int, default=4)
    parser.add_argument("--segment", type=int, default=16)
    parser.add_argument("--basis", type=int, default=128, help="N")
    parser.add_argument("--samples", type=int, default=256, help="M")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.01])
    parser.add_argument("--look", type=float, default=0.25, help="share of attention on the facts (sticky)")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--documents", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(args.seed)
    codes = torch.randn(args.facts, args.values, args.dim, generator=generator)
    facts = Facts(codes, torch.randint(args.values, (args.documents, args.facts), generator=generator))
    print(f"{'distance in words':<18}" + "".join(f"{distance:>10,}" for distance in args.distances))
    for (contraction, sampling), name in BY_RULE.items():
        basis = GaussianBasis(args.basis, args.widths)
        memory = ContinuousMemory(basis, args.samples, contraction=contraction, sampling=sampling)
        found = tqdm(by_distance(memory, facts, args), desc=name, total=len(args.distances), disable=None, leave=False)
        print(f"{name:<18}" + "".join(f"{100 * accuracy:>10.1f}" for accuracy in found))


if __name__ == "__main__":
    main()
