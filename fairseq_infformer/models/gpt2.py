"""A pretrained GPT-2 (Radford et al. 2019) as Hugging Face publishes it: its sizes, and its weights in the decoder.

config.json                            sizes
model.safetensors, pytorch_model.bin   the weights, in one of the two; either is read as tensors alone
vocab.json                             what each row of the embedding stands for
"""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fairseq_infformer.errors import InputError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
END_OF_TEXT = "<|endoftext|>"
ACTIVATIONS = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu", "relu": "relu"}
# Of what else a config.json can say, the values that the decoder computes with.
KNOWN = {
    "model_type": ["gpt2"],
    "activation_function": list(ACTIVATIONS),
    "layer_norm_epsilon": [1e-5],
    "scale_attn_weights": [True],
    "scale_attn_by_inverse_layer_idx": [False],
    "add_cross_attention": [False],
    "tie_word_embeddings": [True],
}
# Names of a layer's parts here and there. Hugging Face keeps weights as (in, out), PyTorch's Linear as (out, in).
LAYER = {
    "attention_norm": "ln_1",
    "attention.out_proj": "attn.c_proj",
    "ffn_norm": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """What a config.json settles of InfiniteFormerConfig; what it leaves out is as in the smallest GPT-2."""
    width = config.get("n_embd", 768)
    return {
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": config.get("n_inner") or 4 * width,
        "decoder_layers": config.get("n_layer", 12),
        "decoder_attention_heads": config.get("n_head", 12),
        "max_target_positions": config.get("n_positions", 1024),
        "activation_fn": ACTIVATIONS[config.get("activation_function", "gelu_new")],
        "position_encoding": "learned",
        "attention_bias": True,
        "no_scale_embedding": True,
    }


def read_settings(folder: Path) -> dict[str, Any]:
    """``settings`` of a folder; InputError if it has no GPT-2 that the decoder can be."""
    file = folder / "config.json"
    config = _read_json(file)
    for name, value in ({"model_type": None} | config).items():
        if value not in KNOWN.get(name, [value]):
            wanted = " or ".join(map(str, KNOWN[name]))
            raise InputError(f"{file} says {name} = {value!r}, and only {wanted} is supported; give another --gpt2")
    for name in ("n_embd", "n_inner", "n_layer", "n_head", "n_positions"):
        if (value := config.get(name)) is not None and not (type(value) is int and value > 0):
            raise InputError(f"{file} says {name} = {value!r}, which is no size; give another --gpt2")
    return settings(config)


def load(folder: Path, decoder: nn.Module) -> None:
    """Fill an ``InfiniteFormerDecoder`` with a GPT-2, whose logits it has from then on, with a memory or without.

    Raises:
        InputError: if a file is missing or damaged, or settings or dictionary are not those of this GPT-2.
    """
    wanted = read_settings(folder)
    for name, value in wanted.items():
        if (given := str(getattr(decoder.cfg, name))) != str(value):
            raise InputError(
                f"--{name.replace('_', '-')} is {given}, {folder / 'config.json'} makes it {value}: leave it out, and "
                "give --arch infinite_former_gpt2"
            )
    rows = embedding_rows(decoder.dictionary, folder)
    state = _state(_Tensors(folder), rows, *(wanted[f"decoder_{name}"] for name in ("layers", "embed_dim")), decoder)
    decoder.load_state_dict(state, strict=False)  # without the memory, which no GPT-2 has
    for layer in decoder.layers:
        if layer.long_term_memory is not None:
            # The layers above know nothing of a memory, so what it adds starts at zero in every segment: training
            # begins with GPT-2's own loss. A random read, the paper's form, would have to be unlearned first.
            layer.long_term_memory.start_silent()


def embedding_rows(dictionary: Dictionary, folder: Path) -> list[int]:
    """For each entry of a dictionary made by ``prepare.sh --level gpt2`` the row of GPT-2's embedding.

    ``</s>`` is GPT-2's end of text. The other three of fairseq's own words are the three tokens that the dictionary
    leaves out, since no text has them; so the two vocabularies are of one size, and no logit is left over.
    """
    vocabulary = _read_json(folder / "vocab.json")
    words = dictionary.symbols[dictionary.nspecial :]
    left_out = sorted(row for token, row in vocabulary.items() if token not in dictionary and token != END_OF_TEXT)
    if not (vocabulary.keys() >= {END_OF_TEXT, *words} and len(left_out) == dictionary.nspecial - 1):
        raise InputError(
            f"the data's dict.txt is not made of {folder / 'vocab.json'}; prepare the data with --level gpt2 "
            f"--gpt2 {folder}"
        )
    own = dict(zip((dictionary.bos(), dictionary.pad(), dictionary.unk()), left_out))
    own[dictionary.eos()] = vocabulary[END_OF_TEXT]
    return [own[index] for index in range(dictionary.nspecial)] + [vocabulary[word] for word in words]


class _Tensors:
    """The tensors of a folder by their names, each of which is taken once."""

    def __init__(self, folder: Path) -> None:
        self.file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if self.file is None:
            raise InputError(f"--gpt2 {folder} has neither {' nor '.join(WEIGHTS)}; give a folder with the weights")
        try:
            if self.file.suffix == ".bin":
                tensors = torch.load(self.file, map_location="cpu", weights_only=True)
            else:
                tensors = load_file(self.file)
            # Some are saved with the head of the language model, which adds the prefix, and all with causal masks.
            names = {name: name.removeprefix("transformer.") for name in tensors}
            masks = (".attn.bias", ".attn.masked_bias")
            self.left = {names[name]: tensors[name] for name in tensors if not name.endswith(masks)}
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).split(". ")[0]
            raise InputError(f"{self.file} cannot be read as the weights of a GPT-2 ({reason})") from error

    def take(self, name: str, *shape: int) -> Tensor:
        tensor = self.left.pop(name, None)
        found = None if tensor is None else tuple(tensor.shape)
        if found != shape:
            raise InputError(
                f"{self.file}: {name} has shape {found}, but config.json implies {shape}; give the files of one model"
            )
        return tensor


def _state(tensors: _Tensors, rows: list[int], num_layers: int, width: int, decoder: nn.Module) -> dict[str, Tensor]:
    """State of the decoder, as far as a GPT-2 has it."""
    shapes = {name: tuple(parameter.t().shape) for name, parameter in decoder.named_parameters() if parameter.dim() < 3}
    embedding = tensors.take("wte.weight", len(rows), width)
    if not tensors.left.pop("lm_head.weight", embedding).equal(embedding):
        raise InputError(f"{tensors.file} has an output layer of its own, which is not supported; give another --gpt2")
    state = {
        "embed_tokens.weight": embedding[rows],
        "embed_positions.weight": tensors.take("wpe.weight", *decoder.embed_positions.weight.shape),
    }
    for kind in ("weight", "bias"):
        state[f"final_norm.{kind}"] = tensors.take(f"ln_f.{kind}", width)
        for number in range(num_layers):
            for here, there in LAYER.items():
                name = f"layers.{number}.{here}.{kind}"
                state[name] = tensors.take(f"h.{number}.{there}.{kind}", *shapes[name]).t()
            joined = tensors.take(f"h.{number}.attn.c_attn.{kind}", *([width] * (kind == "weight")), 3 * width).t()
            names = (f"layers.{number}.{part}.{kind}" for part in ("q_proj", "attention.kv_proj"))
            state.update(zip(names, joined.split([width, 2 * width])))
    if tensors.left:
        raise InputError(f"{tensors.file} has {next(iter(tensors.left))}, of which config.json says nothing")
    return state


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(
            f"--gpt2 {file.parent} has no {file.name}; give the folder of a GPT-2 as Hugging Face publishes it"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({' '.join(str(error).split())}); get it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is not what Hugging Face publishes; get it again")
    return content
