"""A trained model as a folder of plain files, which run nothing when they are read; ``infformer-export`` writes it.

model.safetensors     the weights; a tensor with several names (tied weights) once, under the first of them
config.json           format and version of the project, the model's settings, the task's, SHA-256 of the files
dict.txt              fairseq's dictionary
sentencepiece.model   if the words of the dictionary are its pieces
vocab.json, merges.txt   if they are GPT-2's tokens
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, TypeVar

from fairseq.data import Dictionary
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fairseq_infformer.errors import InputError

from .configuration import described, takes

FORMAT = 1
CONFIG, WEIGHTS, DICTIONARY, SENTENCEPIECE = "config.json", "model.safetensors", "dict.txt", "sentencepiece.model"
SPELLINGS = (SENTENCEPIECE, "vocab.json", "merges.txt")  # of the dictionary's words; a folder may have some
AGAIN = "export the checkpoint again with infformer-export"

Config = TypeVar("Config")


def write(folder: Path, config: dict[str, Any], model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Add the weights and config.json to a folder that has the dictionary, and the files that go with it.

    Args:
        config: ``version``, ``model`` and ``task``, plain values each.
        model: says which names of ``state_dict``, its own, are one tensor.
    """
    names = set(first_names(model).values())
    save_file({name: state_dict[name].contiguous() for name in sorted(names)}, folder / WEIGHTS)
    files = [folder / name for name in (WEIGHTS, DICTIONARY, *SPELLINGS)]
    digests = {file.name: _sha256(file) for file in files if file.exists()}
    text = json.dumps({"format": FORMAT} | config | {"sha256": digests}, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors lets its owner alone read a file


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, whose format is this version's; InputError if there is none."""
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(f"{folder} is not a folder with a {CONFIG}; make one of a checkpoint with infformer-export")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); {AGAIN}") from None
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise InputError(f"{file} is of format {found!r}, this version reads {FORMAT}; {AGAIN} of this version")
    for section in ("model", "task", "sha256"):
        if not isinstance(config.get(section), dict):
            raise InputError(f"{file} lacks the section {section!r}; {AGAIN}")
    return config


def read_dictionary(folder: Path) -> Dictionary:
    """dict.txt of a folder."""
    try:
        return Dictionary.load(str(folder / DICTIONARY))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder / DICTIONARY} cannot be read as a fairseq dictionary ({reason})") from error


def check_files(folder: Path, digests: dict[str, Any]) -> None:
    """InputError unless every file is there as it was exported."""
    for name in (WEIGHTS, DICTIONARY, *SPELLINGS):
        if name in SPELLINGS and name not in digests:
            continue
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing; {AGAIN}")
        if _sha256(file) != digests.get(name):
            raise InputError(f"{file} is damaged or not the one that was exported with {CONFIG}; {AGAIN}")


def read_weights(folder: Path, model: nn.Module) -> None:
    """Fill a model with model.safetensors; InputError if the two do not fit."""
    file = folder / WEIGHTS
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} cannot be read as safetensors ({error}); {AGAIN}") from error
    first = first_names(model)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if first[name] == name}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"{file} has {name} of shape {found.get(name)}, the settings make it {wanted.get(name)}: they are "
                "another model's"
            )
    model.load_state_dict({name: tensors[first[name]] for name in first})


def first_names(model: nn.Module) -> dict[str, str]:
    """For every name in the state of a model the first name of the same tensor."""
    seen: dict[tuple, str] = {}
    # Two tensors without elements may have one address, but then they are equal in value too.
    return {
        name: seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        for name, tensor in model.state_dict().items()
    }


def configuration(kind: type[Config], values: dict[str, Any], source: object) -> Config:
    """A configuration dataclass with these plain values; InputError names the first one that it does not take."""
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in types:
            raise InputError(f"{source} has the setting {name!r}, which this version does not know; leave it out")
        if not takes(types[name], value):
            raise InputError(f"{source} has the setting {name} = {value!r}; it must be {described(types[name])}")
    return kind(**values)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
