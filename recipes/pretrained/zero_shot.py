"""What a memory gives a pretrained model that was never trained with it: perplexities, in minutes.

    python -m recipes.pretrained.zero_shot MODEL TEXT [TEXT ...]

The gates of all layers are one, so that attention sees what the memory keeps as it sees its window. MODEL is a folder
as ``save_pretrained`` writes it, with its tokenizer; of each TEXT the first tokens are read from an empty memory, all
texts side by side.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.pretrained import attach
from recipes import runs

LONG = 1792  # tokens of the window that a memory is compared with


def rows(segment: int, vectors: int) -> dict[str, dict[str, Any]]:
    """Settings of ``attach`` by row; the first and the last are the ends of the headroom."""
    kept = {"compressive": {"function": "mean"}, "heavy-hitters": {}}
    memories = {name: {"memory": name, "length": vectors, **settings} for name, settings in kept.items()}
    return {
        "window": {"memory": "none"},
        **memories,
        f"window + {vectors}": {"memory": "none", "window": segment + vectors},
        f"window of {LONG:,}": {"memory": "none", "window": LONG},
    }


@torch.no_grad()
def loss(folder: Path, tokens: Tensor, skipped: int, settings: dict[str, Any]) -> float:
    """Mean loss per token of texts (B, T + 1) after their first ``skipped`` tokens."""
    model = attach(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), **settings).eval()
    for gated in model.memories.values():
        gated.gate.fill_(1 / gated.scale)
    losses, cache = [], None
    for first in range(0, tokens.shape[1] - 1, model.config.segment):
        piece = tokens[:, first : first + model.config.segment + 1]
        output = model(piece[:, :-1], cache=cache, use_cache=True)
        cache = output.cache
        losses.append(F.cross_entropy(output.logits.transpose(1, 2), piece[:, 1:], reduction="none"))
    return float(torch.cat(losses, dim=1)[:, skipped:].mean())


def read(folder: Path, files: list[Path], count: int) -> Tensor:
    """The first ``count`` + 1 tokens of each file."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer(file.read_text(encoding="utf-8"))["input_ids"] for file in files]
    for file, text in zip(files, texts):
        if len(text) <= count:
            raise InputError(f"{file} has {len(text):,} tokens; give longer texts, or --tokens {len(text) - 1}")
    return torch.tensor([text[: count + 1] for text in texts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a pretrained model")
    parser.add_argument("texts", type=Path, nargs="+", metavar="TEXT", help="a text file, such as a novel")
    parser.add_argument("--tokens", type=int, default=3072, help="read of each text (default: 3072)")
    parser.add_argument("--skipped", type=int, default=1024, help="of them not scored (default: 1024)")
    parser.add_argument("--segment", type=int, default=128, help="tokens of a segment and of the window (default: 128)")
    parser.add_argument("--vectors", type=int, default=256, help="that a memory keeps (default: 256)")
    args = parser.parse_args()
    if not 0 <= args.skipped < args.tokens:
        parser.error(f"--skipped must be less than --tokens, {args.tokens}, got {args.skipped}")
    tokens, found = read(args.model, args.texts, args.tokens), []
    wanted = rows(args.segment, args.vectors)
    for name, settings in tqdm(wanted.items(), desc="rows", disable=None):
        started = time.process_time()
        nats = loss(args.model, tokens, args.skipped, {"segment": args.segment} | settings)
        found.append((name, nats, time.process_time() - started))
    short, long = found[0], found[-1]
    table = [
        [name, f"{math.exp(nats):.2f}", f"{100 * (short[1] - nats) / (short[1] - long[1]):.0f} %", f"{cpu:.0f} s"]
        for name, nats, cpu in found
    ]
    print(runs.markdown(["attention sees", "perplexity", "share of headroom", "CPU time"], table))


if __name__ == "__main__":
    install_one_line_messages()
    main()
