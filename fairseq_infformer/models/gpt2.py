"""A pretrained GPT-2 (Radford et al. 2019) as Hugging Face publishes it: its sizes, and its weights in the decoder.

config.json                            sizes
model.safetensors, pytorch_model.bin   the weights, in one of the two; either is read as tensors alone
vocab.json                             the token of each row of the embedding
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

from fairseq_infformer.errors import InputError, one_line, option
from fairseq_infformer.vocabulary_files import END_OF_TEXT, GPT2_VOCABULARY, gpt2_file

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
ACTIVATIONS = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu", "relu": "relu"}
# Other settings in a config.json, each with the values that the decoder supports.
SUPPORTED = {
    "model_type": ["gpt2"],
    "activation_function": list(ACTIVATIONS),
    "layer_norm_epsilon": [1e-5],
    "scale_attn_weights": [True],
    "scale_attn_by_inverse_layer_idx": [False],
    "add_cross_attention": [False],
    "tie_word_embeddings": [True],
}
# A layer's parts by their names in the decoder and in GPT-2, whose weights are (in, out); Linear's are (out, in).
LAYER = {
    "attention_norm": "ln_1",
    "attention.out_proj": "attn.c_proj",
    "ffn_norm": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of InfiniteFormerConfig that a config.json determines; missing sizes are the smallest GPT-2's."""
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
    """``settings`` of a folder; InputError if it has no GPT-2 that the decoder supports."""
    file = gpt2_file(folder, CONFIG)
    config = _read_json(file)
    for name, value in ({"model_type": None} | config).items():
        if value not in SUPPORTED.get(name, [value]):
            supported = " or ".join(map(str, SUPPORTED[name]))
            raise InputError(f"{file} has {name} = {value!r}, but only {supported} is supported; give another --gpt2")
    for name in ("n_embd", "n_inner", "n_layer", "n_head", "n_positions"):
        if (value := config.get(name)) is not None and not (type(value) is int and value > 0):
            raise InputError(f"{file} has {name} = {value!r}, which must be a positive integer; give another --gpt2")
    return settings(config)


def load(folder: Path, decoder: nn.Module) -> None:
    """Fill an ``InfiniteFormerDecoder`` with the weights of a GPT-2; it then has GPT-2's logits, even with a memory.

    Raises:
        InputError: if a file is missing or damaged, or settings or dictionary are not those of this GPT-2.
    """
    implied = read_settings(folder)
    for name, value in implied.items():
        if (given := str(getattr(decoder.cfg, name))) != str(value):
            raise InputError(
                f"{option(name)} is {given}, but {folder / CONFIG} implies {value}; leave it out, and give "
                "--arch infinite_former_gpt2"
            )
    rows = embedding_rows(decoder.dictionary, folder)
    state = _state(_Tensors(folder), rows, implied["decoder_layers"], implied["decoder_embed_dim"], decoder)
    decoder.load_state_dict(state, strict=False)  # not strict, because no GPT-2 has the weights of the memory
    for layer in decoder.layers:
        if layer.long_term_memory is not None:
            # The layers above were trained without a memory. Its read starts at zero, so that training starts with
            # GPT-2's own loss; a random read, as in the paper, would have to be unlearned first.
            layer.long_term_memory.start_silent()


def embedding_rows(dictionary: Dictionary, folder: Path) -> list[int]:
    """For each entry of a dictionary made by ``prepare.sh --level gpt2``, the row of GPT-2's embedding.

    ``</s>`` is GPT-2's end of text. fairseq's other three special words get the rows of the three tokens that the
    dictionary leaves out because no text contains them. So both vocabularies have one size, and no logit is left over.
    """
    vocabulary = _read_json(gpt2_file(folder, GPT2_VOCABULARY))
    words = dictionary.symbols[dictionary.nspecial :]
    left_out = sorted(row for token, row in vocabulary.items() if token not in dictionary and token != END_OF_TEXT)
    if not (vocabulary.keys() >= {END_OF_TEXT, *words} and len(left_out) == dictionary.nspecial - 1):
        raise InputError(
            f"the data's dict.txt was not made from {folder / GPT2_VOCABULARY}; prepare the data with --level gpt2 "
            f"--gpt2 {folder}"
        )
    own = dict(zip((dictionary.bos(), dictionary.pad(), dictionary.unk()), left_out))
    own[dictionary.eos()] = vocabulary[END_OF_TEXT]
    return [own[index] for index in range(dictionary.nspecial)] + [vocabulary[word] for word in words]


class _Tensors:
    """The weights in a folder, from which each tensor is taken once."""

    def __init__(self, folder: Path) -> None:
        self.file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if self.file is None:
            raise InputError(f"--gpt2 {folder} has neither {' nor '.join(WEIGHTS)}; give a folder with the weights")
        try:
            if self.file.suffix == ".bin":
                tensors = torch.load(self.file, map_location="cpu", weights_only=True)
            else:
                tensors = load_file(self.file)
            # Some are saved with the language model's head, which adds the prefix; all have causal masks among them.
            names = {name: name.removeprefix("transformer.") for name in tensors}
            masks = (".attn.bias", ".attn.masked_bias")
            self.left = {names[name]: tensors[name] for name in tensors if not name.endswith(masks)}
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
            reason = one_line(error, with_type=True).split(". ")[0]
            raise InputError(
                f"{self.file} cannot be read as the weights of a GPT-2 ({reason}); download it again"
            ) from error

    def take(self, name: str, *shape: int) -> Tensor:
        tensor = self.left.pop(name, None)
        actual = None if tensor is None else tuple(tensor.shape)
        if actual != shape:
            raise InputError(
                f"{self.file}: {name} has shape {actual}, but config.json implies {shape}; give the files of one model"
            )
        return tensor


def _state(tensors: _Tensors, rows: list[int], num_layers: int, width: int, decoder: nn.Module) -> dict[str, Tensor]:
    """The part of the decoder's state that a GPT-2 has."""
    shapes = {name: tuple(parameter.t().shape) for name, parameter in decoder.named_parameters() if parameter.dim() < 3}
    embedding = tensors.take("wte.weight", len(rows), width)
    if not tensors.left.pop("lm_head.weight", embedding).equal(embedding):
        raise InputError(f"{tensors.file} has an untied output layer, which is not supported; give another --gpt2")
    state = {
        "embed_tokens.weight": embedding[rows],
        "embed_positions.weight": tensors.take("wpe.weight", *decoder.embed_positions.weight.shape),
    }
    for parameter in ("weight", "bias"):
        state[f"final_norm.{parameter}"] = tensors.take(f"ln_f.{parameter}", width)
        for number in range(num_layers):
            for own, published in LAYER.items():
                name = f"layers.{number}.{own}.{parameter}"
                state[name] = tensors.take(f"h.{number}.{published}.{parameter}", *shapes[name]).t()
            inputs = [width] if parameter == "weight" else []
            projections = tensors.take(f"h.{number}.attn.c_attn.{parameter}", *inputs, 3 * width).t()
            names = (f"layers.{number}.{part}.{parameter}" for part in ("q_proj", "attention.kv_proj"))
            state.update(zip(names, projections.split([width, 2 * width])))
    if tensors.left:
        raise InputError(
            f"{tensors.file} has {next(iter(tensors.left))}, which config.json does not imply; give the files of one "
            "model"
        )
    return state


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({one_line(error)}); download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a file that Hugging Face publishes; download it again")
    return content
