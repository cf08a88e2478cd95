"""Write a trained model as safetensors, with its settings and its dictionary: a folder that is safe to share.

A checkpoint of fairseq is a pickle, and loading one with the wrong tools executes code in it. An exported model
executes nothing. It has only the weights: neither the optimizer nor the memory of the texts it was trained on.
"""

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary
from fairseq.models import ARCH_MODEL_NAME_REGISTRY

from fairseq_infformer import __version__
from fairseq_infformer.cli import loading
from fairseq_infformer.data import vocabulary
from fairseq_infformer.errors import InputError
from fairseq_infformer.files import AtomicFolder
from fairseq_infformer.models import export_format
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerConfig, InfiniteFormerLM
from fairseq_infformer.models.pretrained_lm import MODEL, PretrainedConfig, PretrainedLM
from fairseq_infformer.models.streaming_lm import StreamingLanguageModel, check_dictionary
from fairseq_infformer.vocabulary_files import (
    DICTIONARY,
    SENTENCEPIECE,
    SPELLINGS,
    load_dictionary,
    write_word_tokenizer,
)

OUTPUT = """
With --to infformer, for models of this project, DEST contains
  model.safetensors     the weights, in the precision of the checkpoint; tied weights once
  config.json           the model's settings, this project's version, SHA-256 of the other files
  dict.txt              the dictionary of DATA, which must be the one that the model was trained with
  sentencepiece.model   if DATA has it; likewise the files of a tokenizer

Read it with
  InfiniteFormerLM.from_pretrained("DEST")     from fairseq_infformer.models.infinite_former_lm
  infformer-eval DATA --path DEST

With --to hf, DEST contains what transformers reads. Of models of --arch infinite_former_pretrained: config.json and
model.safetensors, in float32, and the tokenizer of DATA. Read it with
  import fairseq_infformer.pretrained
  AutoModelForCausalLM.from_pretrained("DEST")
Of models of infinite_former_lm: what --to infformer writes, and for a dictionary of words a tokenizer. Read it with
  import fairseq_infformer.hf
  AutoModelForCausalLM.from_pretrained("DEST")

DEST appears when everything is written.

examples:
  infformer-export data/mine --path checkpoints/mine/checkpoint_best.pt --dest mine
  infformer-export data/mine --path checkpoints/mine/checkpoint_best.pt --to hf --dest mine
"""


# What --to takes, and of each model, by its name in fairseq, which of these.
TARGETS = ("infformer", "hf")
FORMATS = {"infinite_former_lm": TARGETS, MODEL: ("hf",)}


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="infformer-export",
        description=__doc__,
        epilog=OUTPUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="data folder made by prepare.sh, for its dictionary")
    parser.add_argument("--path", required=True, metavar="FILE", help="checkpoint to export")
    parser.add_argument("--user-dir", metavar="DIR", help="your own plugin, if the model was trained with one")
    parser.add_argument("--to", choices=TARGETS, default="infformer", help="who reads DEST (default: infformer)")
    parser.add_argument("--ema", action="store_true", help="export the weights that --store-ema averaged in training")
    parser.add_argument("--dest", required=True, type=Path, metavar="DIR", help="folder to write, new or empty")
    return parser


def build(path: str, saved: dict[str, Any], dictionary: Dictionary, to: str) -> StreamingLanguageModel:
    """The model of a checkpoint, for the folder format ``to``.

    Raises:
        InputError: if its settings, its weights and the dictionary do not match, or the format is not the model's.
    """
    # Earlier versions have gpt2, the folder that their weights began as.
    settings = {name: value for name, value in saved["cfg"]["model"].items() if name not in ("_name", "gpt2")}
    arch = saved["cfg"]["model"].get("_name")
    name = ARCH_MODEL_NAME_REGISTRY.get(arch)
    if name not in FORMATS:
        raise InputError(f"{path} was trained with --arch {arch}; give a checkpoint of an infinite_former_lm")
    if to not in FORMATS[name]:
        right = FORMATS[name][0]
        raise InputError(f"{path} was trained with --arch {arch}, whose models have no --to {to}; give --to {right}")
    check_dictionary(saved["model"], dictionary)
    if name == MODEL:
        segment = loading.task_settings(saved["cfg"]["task"], path)["tokens_per_sample"]
        cfg = export_format.configuration(PretrainedConfig, settings, path)
        model = PretrainedLM.build(cfg, dictionary, segment)
    else:
        model = InfiniteFormerLM.build(export_format.configuration(InfiniteFormerConfig, settings, path), dictionary)
    model.load_state_dict(saved["model"])
    return model


def export(data: Path, path: str, dest: Path, average: bool = False, to: str = "infformer") -> str:
    """Write ``dest`` and return a line that describes it. If anything is wrong, InputError, and nothing is written."""
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise InputError(f"--dest {dest} exists already; give a folder that is new or empty")
    if not (data / DICTIONARY).is_file():
        raise InputError(f"{data} has no {DICTIONARY}; give the data folder that the model was trained on")
    dictionary = load_dictionary(data / DICTIONARY)
    if (data / SENTENCEPIECE).is_file():
        processor = vocabulary.load_sentencepiece(data / SENTENCEPIECE)
        vocabulary.check_pieces(processor, dictionary, str(data / SENTENCEPIECE), DICTIONARY)
    saved = loading.read(path, average)
    model = build(path, saved, dictionary, to)
    task = loading.task_settings(saved["cfg"]["task"], path)

    atomic = AtomicFolder(dest.resolve(), ("model",))
    with atomic.opened():
        with atomic.stage("model", {}) as folder:
            pretrained = isinstance(model, PretrainedLM)
            for name in SPELLINGS if pretrained else (DICTIONARY, *SPELLINGS):
                if (data / name).is_file():
                    shutil.copyfile(data / name, folder / name)
            if to == "hf" and not any((folder / name).exists() for name in SPELLINGS):
                write_word_tokenizer(folder, dictionary)
            if pretrained:
                model.decoder.model.save_pretrained(folder)
                export_format.let_all_read(folder)
            else:
                settings = dataclasses.asdict(model.decoder.cfg)
                del settings["_name"]
                config = {"version": __version__, "model": settings, "task": task}
                export_format.write(folder, config, model, saved["model"])
        atomic.publish()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = (dest / export_format.WEIGHTS).stat().st_size / 1e6
    return f"{dest}: {parameters:,} parameters, {len(dictionary):,} types, {size:,.1f} MB of weights"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``infformer-export``."""
    args = build_parser().parse_args(argv)
    loading.import_plugin(args.user_dir)
    try:
        print(export(args.data, args.path, args.dest, args.ema, args.to))
    except OSError as error:
        raise InputError(f"{error}; check that --dest can be written") from error


if __name__ == "__main__":
    main()
