"""A small random GPT-2 in the format in which Hugging Face publishes it, and what it computes, written plainly."""

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import regex
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

LAYERS, WIDTH, HEADS, POSITIONS, MERGES = 2, 32, 4, 24, 60
PIECE = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
CONFIG = {
    "model_type": "gpt2",
    "n_layer": LAYERS,
    "n_embd": WIDTH,
    "n_head": HEADS,
    "n_positions": POSITIONS,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "vocab_size": 256 + MERGES + 1,
}


@cache
def signs() -> list[str]:
    """How GPT-2 writes each byte: printable ones as they are, the others, in order, from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def split(text: str) -> list[list[str]]:
    """The pieces that are encoded apart, as GPT-2 writes their bytes."""
    return [[signs()[byte] for byte in piece.encode()] for piece in PIECE.findall(text)]


def joined(word: list[str], first: str, second: str) -> list[str]:
    out: list[str] = []
    for sign in word:
        if out and (out[-1], sign) == (first, second):
            out[-1] += sign
        else:
            out.append(sign)
    return out


def learn_merges(text: str) -> list[tuple[str, str]]:
    words, merges = split(text), []
    while len(merges) < MERGES:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        words = [joined(word, *merges[-1]) for word in words]
    return merges


def encode(text: str, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> list[int]:
    """GPT-2's tokens of a text: the merges, one after the other, in all pieces."""
    ids = []
    for word in split(text):
        for merge in merges:
            word = joined(word, *merge)
        ids += [vocabulary[token] for token in word]
    return ids


def weights(seed: int = 0) -> dict[str, Tensor]:
    """All tensors of a GPT-2; larger than trained ones, so that every part shows in the logits."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    tensors = {"wte.weight": random(CONFIG["vocab_size"], WIDTH), "wpe.weight": random(POSITIONS, WIDTH)}
    shapes = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
    shapes |= {"mlp.c_fc": (WIDTH, 4 * WIDTH), "mlp.c_proj": (4 * WIDTH, WIDTH)}
    for number in range(LAYERS):
        for name, shape in shapes.items():
            tensors |= {f"h.{number}.{name}.weight": random(*shape), f"h.{number}.{name}.bias": random(shape[1])}
        tensors[f"h.{number}.attn.bias"] = torch.ones(1, 1, POSITIONS, POSITIONS).tril()
    for name in ("ln_f", *(f"h.{number}.ln_{place}" for number in range(LAYERS) for place in (1, 2))):
        tensors |= {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}
    return tensors


def write(folder: Path, text: str, form: str = "safetensors") -> Path:
    """Write a GPT-2 with tokens learned from a text: as one file of tensors, or as a pickle, as older ones are."""
    folder.mkdir()
    merges = learn_merges(text)
    tokens = [*sorted(signs(), key=lambda sign: (ord(sign) > 255, sign)), *(a + b for a, b in merges), "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = weights()
    if form == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    else:
        headed = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
        torch.save(headed | {"lm_head.weight": tensors["wte.weight"]}, folder / "pytorch_model.bin")
    return folder


def reference(tensors: dict[str, Tensor], ids: Tensor) -> Tensor:
    """GPT-2's logits (B, T, V) for ids (B, T), formula by formula (Radford et al. 2018 and 2019)."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))

    length = ids.shape[1]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    x = tensors["wte.weight"][ids] + tensors["wpe.weight"][:length]
    for layer in (f"h.{number}" for number in range(LAYERS)):
        parts = linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn").split(WIDTH, dim=-1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        scores = query @ key.mT / (WIDTH / HEADS) ** 0.5
        context = F.softmax(scores.masked_fill(future, -torch.inf), -1) @ value
        x = x + linear(context.transpose(1, 2).flatten(2), f"{layer}.attn.c_proj")
        x = x + linear(gelu(linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc")), f"{layer}.mlp.c_proj")
    return norm(x, "ln_f") @ tensors["wte.weight"].T
