"""Show the architecture that a search has come to, or that a net has, and write it as JSON for --architecture.

Of a search, each node gets the operation with the greatest weight, the softmax of α, but never zero.
"""

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from omegaconf import DictConfig, OmegaConf

from fairseq_infformer.cli import loading
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import replacing
from fairseq_infformer.models.dartsformer import Architecture, read_architecture
from fairseq_infformer.models.dartsformer.architecture import chosen
from fairseq_infformer.models.dartsformer.configuration import DartsformerSearchConfig

SIDES = ("encoder", "decoder")
SHOWN = 3  # operations per node, those with the greatest weights


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(prog="infformer-architecture", description=__doc__)
    parser.add_argument("path", metavar="CHECKPOINT", help="of --arch dartsformer_search or dartsformer")
    parser.add_argument("--user-dir", metavar="DIR", help="your own plugin, if the model was trained with one")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file of JSON to write, for --architecture")
    return parser


def main() -> None:
    """Run the command."""
    args = build_parser().parse_args()
    loading.import_plugin(args.user_dir)
    architecture, lines = read(args.path)
    if args.output:
        try:
            with replacing(args.output) as new:
                new.write_text(architecture.to_json(), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--output {args.output} cannot be written ({error.strerror}); give another") from error
    print("\n".join(lines))


def read(path: str) -> tuple[Architecture, list[str]]:
    """The architecture of a checkpoint, and the table that shows it."""
    saved = load(path)
    if own := _settings(saved["cfg"]).get("architecture"):
        architecture = read_architecture(own)
        return architecture, list(_table(architecture))
    names, weights = search_of(saved, path)
    architecture = chosen_of(names, weights)
    return architecture, list(_table(architecture, names, weights))


def load(path: str) -> dict[str, Any]:
    """What a checkpoint holds; InputError if there is none."""
    if not Path(path).is_file():
        raise InputError(f"checkpoint {path} does not exist; give one that does")
    return checkpoint_utils.load_checkpoint_to_cpu(path)


def search_of(saved: dict[str, Any], path: str) -> tuple[list[list[str]], list[list]]:
    """Of the encoder and of the decoder, the operations of a search and their weights by layer and node."""
    alphas = [saved["model"].get(f"{side}.layers.alpha") for side in SIDES]
    if any(alpha is None for alpha in alphas):
        raise InputError(f"{path} has no architecture; give a checkpoint of --arch dartsformer_search or dartsformer")
    model, defaults = _settings(saved["cfg"]), DartsformerSearchConfig()
    names = [model.get(name := f"{side}_operations", getattr(defaults, name)).split(",") for side in SIDES]
    return names, [alpha.double().softmax(-1).tolist() for alpha in alphas]


def chosen_of(names: Sequence[list[str]], weights: Sequence[list]) -> Architecture:
    """The operation of the greatest weight in each node, but for zero."""
    return Architecture(*(chosen(own, of_nodes) for own, of_nodes in zip(names, weights)))


def _settings(cfg: Any) -> dict[str, Any]:
    """The model's settings in a checkpoint, in plain values."""
    if isinstance(cfg, DictConfig):
        cfg = OmegaConf.to_container(cfg, resolve=False)
    model = cfg["model"]
    return vars(model) if isinstance(model, Namespace) else model


def _table(architecture: Architecture, names: Sequence[list[str]] = (), weights: Sequence[list] = ()) -> Iterator[str]:
    """A line per node: side, layer, node, operation and, of a search, the greatest weights."""
    width = max(len(name) for side in architecture for layer in side for name in layer)
    yield f"{'side':8} {'layer':>5} {'node':>4}  " + (f"{'operation':{width}}  weights" if weights else "operation")
    for number, (side, layers) in enumerate(zip(SIDES, architecture)):
        for layer, nodes in enumerate(layers):
            for node, name in enumerate(nodes):
                line = f"{side:8} {layer:5} {node:4}  {name:{width}}"
                if weights:
                    own = torch.tensor(weights[number][layer][node])
                    best = own.argsort(descending=True)[:SHOWN].tolist()
                    line += "  " + ", ".join(f"{names[number][each]} {own[each]:.3f}" for each in best)
                yield line.rstrip()


if __name__ == "__main__":
    install_one_line_messages()
    main()
