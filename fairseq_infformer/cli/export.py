"""Write a trained model as safetensors, with its settings and its dictionary: a directory that can be given away.

A checkpoint of fairseq is a pickle, and loading one with the wrong tools runs what is in it. What this writes runs
nothing. It has the weights alone, neither the optimizer nor the memory of the texts that the model was trained on.
"""

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary

from fairseq_infformer import __version__
from fairseq_infformer.cli import trained
from fairseq_infformer.cli.stages import Workplace
from fairseq_infformer.data import vocabulary
from fairseq_infformer.errors import InputError
from fairseq_infformer.models import pretrained
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerConfig, InfiniteFormerLM, check_dictionary

OUTPUT = """
DEST gets
  model.safetensors     the weights, in the precision of the checkpoint; tied weights once
  config.json           the model's settings, this project's version, SHA-256 of the other files
  dict.txt              the dictionary of DATA, which must be the one that the model was trained with
  sentencepiece.model   if there is one in DATA; and so with vocab.json and merges.txt, of a GPT-2

It appears when all is written. Read it with
  InfiniteFormerLM.from_pretrained("DEST")     from fairseq_infformer.models.infinite_former_lm
  infformer-eval DATA --path DEST

example:
  infformer-export data/mine --path checkpoints/mine/checkpoint_best.pt --dest mine
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="infformer-export",
        description=__doc__,
        epilog=OUTPUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="directory made by prepare.sh, for its dictionary")
    parser.add_argument("--path", required=True, metavar="FILE", help="checkpoint")
    parser.add_argument("--user-dir", metavar="DIR", help="plugin with densities of your own, as in training")
    parser.add_argument("--ema", action="store_true", help="export the weights that --store-ema has averaged")
    parser.add_argument("--dest", required=True, type=Path, metavar="DIR", help="directory to make, new or empty")
    return parser


def build(path: str, saved: dict[str, Any], dictionary: Dictionary) -> InfiniteFormerLM:
    """The model of a checkpoint; InputError if its settings, its weights and the dictionary do not fit."""
    settings = {name: value for name, value in saved["cfg"]["model"].items() if name != "_name"}
    if "long_term_memory" not in settings:
        raise InputError(f"{path} holds --arch {saved['cfg']['model'].get('_name')}, not an infinite_former_lm")
    check_dictionary(saved["model"], dictionary)
    model = InfiniteFormerLM.build(pretrained.configuration(InfiniteFormerConfig, settings, path), dictionary)
    model.load_state_dict(saved["model"])
    return model


def export(data: Path, path: str, dest: Path, average: bool = False) -> str:
    """Write ``dest``; return a line on what it has. InputError, and nothing written, if anything is wrong."""
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise InputError(f"--dest {dest} is there already; give a directory that is new or empty")
    if not (data / pretrained.DICTIONARY).is_file():
        raise InputError(f"there is no {pretrained.DICTIONARY} in {data}; give the data that the model was trained on")
    dictionary = pretrained.read_dictionary(data)
    if (data / pretrained.SENTENCEPIECE).is_file():
        vocabulary.check_pieces(vocabulary.load_sentencepiece(data / pretrained.SENTENCEPIECE), dictionary)
    saved = trained.read(path, average)
    model = build(path, saved, dictionary)
    task = trained.task_settings(saved["cfg"]["task"], path)
    settings = dataclasses.asdict(model.decoder.cfg)
    del settings["_name"], settings["gpt2"]  # where these values, and the weights, once came from
    config = {"version": __version__, "model": settings, "task": task}

    place = Workplace(dest.resolve(), ("model",))
    with place.opened():
        with place.stage("model", {}) as made:
            for name in (pretrained.DICTIONARY, *pretrained.SPELLINGS):
                if (data / name).is_file():
                    shutil.copyfile(data / name, made / name)
            pretrained.write(made, config, model, saved["model"])
        place.publish()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = (dest / pretrained.WEIGHTS).stat().st_size / 1e6
    return f"{dest}: {parameters:,} parameters, {len(dictionary):,} types, {size:,.1f} MB of weights"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``infformer-export``."""
    args = build_parser().parse_args(argv)
    trained.import_plugin(args.user_dir)
    try:
        print(export(args.data, args.path, args.dest, args.ema))
    except OSError as error:
        raise InputError(f"{error}; see that --dest can be written") from error


if __name__ == "__main__":
    main()
