"""A trained model and its vocabulary, ready to read text: what the commands that read and generate share."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf
from tqdm import tqdm

from fairseq_infformer.cli import loading
from fairseq_infformer.data.corpus import read_lines
from fairseq_infformer.data.data_folder import data_folders
from fairseq_infformer.data.spelling import Spelling, spelling_of
from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.models import export_format
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerLM
from fairseq_infformer.models.pretrained_lm import (
    PretrainedConfig,
    PretrainedDecoder,
    PretrainedLM,
    import_pretrained,
)
from fairseq_infformer.models.streaming_lm import StreamingLanguageModel
from fairseq_infformer.models.text_stream import Stream
from fairseq_infformer.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)
from fairseq_infformer.vocabulary_files import TokenizerDictionary, load_tokenizer


class Reader(NamedTuple):
    """A trained model that reads text."""

    model: StreamingLanguageModel
    segment: int  # tokens per segment, as in training
    spelling: Spelling


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model reads, and where."""
    parser.add_argument(
        "--path", required=True, help="checkpoint, or folder made by infformer-export, or one that transformers saved"
    )
    parser.add_argument("--data", metavar="DIR", help="data folder of the checkpoint's training, for its words")
    parser.add_argument("--user-dir", metavar="DIR", help="your own plugin, if the model was trained with one")
    parser.add_argument("--ema", action="store_true", help="take the weights that --store-ema averaged in training")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")


def check_options(args: argparse.Namespace) -> None:
    """InputError if the options of ``add_options`` do not go together."""
    path = Path(args.path)
    if not path.exists():
        raise InputError(f"--path {path} does not exist; give a checkpoint or a folder that does")
    if path.is_dir() and args.data:
        raise InputError(f"--path {path} is a folder that has its own words; leave --data out")
    if path.is_dir() and args.ema:
        raise InputError(f"--path {path} holds one set of weights; leave --ema out")
    if path.is_file() and not args.data:
        raise InputError(f"--path {path} is a checkpoint, which has no words; give --data with its data folder")
    if args.data and len(data_folders(args.data)) > 1:
        raise InputError(f"--data {args.data} joins several data folders by ':'; give one folder")


def load(args: argparse.Namespace) -> Reader:
    """The model of ``--path`` in evaluation mode, on a GPU if there is one; InputError if it cannot be loaded."""
    loading.import_plugin(args.user_dir)
    reader = _checkpoint(args) if Path(args.path).is_file() else _folder(Path(args.path))
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    return reader._replace(model=reader.model.to(device).eval())


def _checkpoint(args: argparse.Namespace) -> Reader:
    saved = loading.read(args.path, args.ema)
    reading = loading.task_settings(saved["cfg"]["task"], args.path)
    task = StreamingLanguageModelingTask.setup_task(StreamingLanguageModelingConfig(data=args.data, **reading))
    spelling = spelling_of(Path(args.data), task.dictionary)
    state = saved | {"cfg": OmegaConf.create({"model": saved["cfg"]["model"]})}
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([args.path], task=task, state=state)
    return Reader(models[0], reading["tokens_per_sample"], spelling)


def _folder(folder: Path) -> Reader:
    config = export_format.read_json(folder)
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in (None, "infformer", export_format.MODEL_TYPE):
        raise InputError(
            f"--path {folder} is a {family}, which has no memory; give a model that pretrained.attach made"
        )
    if family != "infformer":
        config = export_format.read_config(folder)
        model = InfiniteFormerLM.from_pretrained(folder)
        segment = loading.task_settings(config["task"], folder / export_format.CONFIG)["tokens_per_sample"]
        return Reader(model, segment, spelling_of(folder, model.decoder.dictionary))
    import_pretrained()
    from transformers import AutoModelForCausalLM

    dictionary = TokenizerDictionary.of(load_tokenizer(folder, f"--path {folder}"))
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except Exception as error:  # of transformers, which has no class of its own for them
        raise InputError(f"--path {folder} cannot be loaded ({one_line(error)}); export the model again") from error
    segment = model.config.segment
    wrapped = PretrainedLM(PretrainedConfig(), segment, PretrainedDecoder(dictionary, model))
    return Reader(wrapped, segment, spelling_of(folder, dictionary))


def text_of(file: Path, option: str) -> str:
    """A text file's content, its lines as those of a training text; InputError, with the option that named it, if it is
    not one."""
    try:
        text = "\n".join(read_lines(file))
        return text + "\n" if file.read_bytes().endswith(b"\n") else text
    except OSError as error:
        raise InputError(f"{option} {file} cannot be read ({error.strerror}); give a text file") from error


def read(stream: Stream, tokens: Sequence[int]) -> None:
    """Let the one row of a stream read tokens, with a progress bar if the output for errors is a terminal."""
    with tqdm(total=len(tokens), desc="read", unit=" tokens", unit_scale=True, disable=None, file=sys.stderr) as bar:
        first = 0
        while first < len(tokens):
            # To the end of the open segment, or each part would be read as two pieces.
            room = stream.segment - int(stream.in_segment) % stream.segment
            part = tokens[first : first + room]
            stream.read(torch.tensor([part]))
            first += len(part)
            bar.update(len(part))
