"""The format of an exported model: a folder of plain files, which execute nothing when they are read.

model.safetensors     the weights; a tensor with several names (tied weights) is saved once, under the first name
config.json           format and version of the project, the model's settings, the task's, SHA-256 of the files
dict.txt              fairseq's dictionary
sentencepiece.model   if the dictionary consists of its pieces
vocab.json, merges.txt   if the dictionary consists of GPT-2's tokens, which earlier versions prepared
tokenizer.json, tokenizer_config.json   if it consists of the tokens of a Hugging Face tokenizer
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fairseq_infformer.errors import InputError
from fairseq_infformer.files import sha256
from fairseq_infformer.vocabulary_files import DICTIONARY, SPELLINGS

from .configuration import described, takes

FORMAT = 1
MODEL_TYPE = "infinite_former_lm"  # by which transformers, with fairseq_infformer.hf, knows such a folder
CONFIG, WEIGHTS = "config.json", "model.safetensors"
EXPORT_AGAIN = "export the checkpoint again with infformer-export"

Config = TypeVar("Config")


def write(folder: Path, config: dict[str, Any], model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Add the weights and config.json to a folder that has the files of the vocabulary already.

    Args:
        config: ``version``, ``model`` and ``task``, with plain values.
        model: shows which names in ``state_dict``, its own, belong to one tensor.
    """
    names = set(first_names(model).values())
    save_file({name: state_dict[name].contiguous() for name in sorted(names)}, folder / WEIGHTS)
    files = [folder / name for name in (WEIGHTS, DICTIONARY, *SPELLINGS)]
    digests = {file.name: sha256(file) for file in files if file.exists()}
    text = json.dumps(
        {"format": FORMAT, "model_type": MODEL_TYPE} | config | {"sha256": digests},
        indent=2,
        ensure_ascii=False,
        allow_nan=False,
    )
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    let_all_read(folder)


def let_all_read(folder: Path) -> None:
    """Give the weights the mode of the other files, since safetensors makes them readable for their owner alone."""
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)


def read_json(folder: Path) -> Any:
    """What config.json holds; InputError if it is missing or damaged."""
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(f"{folder} is not a folder with a {CONFIG}; make one from a checkpoint with infformer-export")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); {EXPORT_AGAIN}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json; InputError if it is missing, damaged or of another format than this version's."""
    file, config = folder / CONFIG, read_json(folder)
    if isinstance(config, dict) and config.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise InputError(f"{folder} is a model of transformers, as --to hf exports it; give the checkpoint instead")
    number = config.get("format") if isinstance(config, dict) else None
    if number != FORMAT:
        raise InputError(
            f"{file} has format {number!r}, but this version reads format {FORMAT}; {EXPORT_AGAIN} of this version"
        )
    for section in ("model", "task", "sha256"):
        if not isinstance(config.get(section), dict):
            raise InputError(f"{file} lacks the section {section!r}; {EXPORT_AGAIN}")
    return config


def check_files(folder: Path, digests: dict[str, Any]) -> None:
    """InputError unless the folder has every file as it was exported."""
    for name in (WEIGHTS, DICTIONARY, *SPELLINGS):
        if name in SPELLINGS and name not in digests:
            continue
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing; {EXPORT_AGAIN}")
        if sha256(file) != digests.get(name):
            raise InputError(f"{file} is damaged, or was not exported together with {CONFIG}; {EXPORT_AGAIN}")


def read_weights(folder: Path, model: nn.Module) -> None:
    """Fill a model with model.safetensors; InputError if the two do not match."""
    file = folder / WEIGHTS
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} cannot be read as safetensors ({error}); {EXPORT_AGAIN}") from error
    first = first_names(model)
    implied = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if first[name] == name}
    saved = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(implied.keys() | saved.keys()):
        if implied.get(name) != saved.get(name):
            raise InputError(
                f"{file}: {name} has shape {saved.get(name)}, but the settings imply {implied.get(name)}; leave out "
                f"settings that differ from the exported model's, or {EXPORT_AGAIN}"
            )
    model.load_state_dict({name: tensors[first[name]] for name in first})


def first_names(model: nn.Module) -> dict[str, str]:
    """For every name in the state of a model, the first name of the same tensor."""
    seen: dict[tuple, str] = {}
    # Two tensors without elements may share an address, but then they are also equal.
    return {
        name: seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        for name, tensor in model.state_dict().items()
    }


def configuration(config_type: type[Config], values: dict[str, Any], source: object) -> Config:
    """A configuration dataclass with these plain values; InputError names the first one that it does not take."""
    types = {field.name: field.type for field in dataclasses.fields(config_type)}
    for name, value in values.items():
        if name not in types:
            raise InputError(f"{source} has the setting {name!r}, which this version does not have; leave it out")
        if not takes(types[name], value):
            raise InputError(f"{source} has the setting {name} = {value!r}; it must be {described(types[name])}")
    return config_type(**values)
