"""The options of a recipe: those that all have, and the experiment's own."""

import argparse
import re
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from recipes.experiment import Experiment, number, positive
from recipes.launches import die


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument ([^:/]*/)?([^:]+): ", r"\2 ", message)
        die(message.replace("expected one argument", "needs a value").replace("the following arguments are", "give:"))


def seeds(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"takes numbers with commas between, got {text}")
    return [int(seed) for seed in text.split(",")]


def names(known: Collection[str], what: str) -> Callable[[str], list[str]]:
    """Reads names of ``what``, with commas between, all of them known."""

    def read(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                die(f"unknown {what} {name}; choose from {','.join(known)}")
        return text.split(",")

    return read


def parser_of(experiment: type[Experiment]) -> Parser:
    """The parser of an experiment's options."""
    stages = {"install": "install everything into .venv (recipes/setup.sh)", **experiment.stages}
    listed = "\n".join(f"  {place}  {name:<10} {what}" for place, (name, what) in enumerate(stages.items()))
    parser = Parser(
        prog=f"recipes/{experiment.name}/run.sh",
        description=import_module(experiment.__module__).__doc__,
        epilog=f"stages:\n{listed}\n\nA recipe that was stopped resumes when the same command is given again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage=f"recipes/{experiment.name}/run.sh [options] [-- arguments of fairseq-train]",
    )
    default = experiment.default_size
    sizes = experiment.sizes
    parser.add_argument("--size", default=default, help=f"{', '.join(sizes)} (default: {default})")
    if "tiny" in sizes:
        parser.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="--size tiny")
    experiment.add_options(parser)
    parser.add_argument(
        f"--{experiment.differ}",
        dest="memory",
        type=names(experiment.known, experiment.differ),
        metavar="NAME,NAME",
        help=f"from {', '.join(experiment.known)} (default: {defaults(sizes, lambda size: ', '.join(size.memories))})",
    )
    parser.add_argument(
        "--seeds",
        type=seeds,
        metavar="N,N",
        help=f"(default: {defaults(sizes, lambda size: ','.join(map(str, size.seeds)))})",
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help=f"folder of all that is made (default: runs/{experiment.name}-SIZE)"
    )
    parser.add_argument(
        "--nproc",
        type=positive,
        default=1,
        metavar="N",
        help="processes of one training, which share the batch: srun's in a SLURM job of several nodes, else those of "
        "torchrun",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="trainings side by side, with one thread each unless OMP_NUM_THREADS says otherwise "
        f"(default: {defaults(sizes, lambda size: str(size.jobs))})",
    )
    stage = number(0, "a number")
    parser.add_argument("--stage", type=stage, default=0, metavar="N", help="first stage (default: 0)")
    parser.add_argument("--stop-stage", type=stage, default=1000, metavar="N", help="last stage (default: the last)")
    parser.add_argument("--dry-run", action="store_true", help="print every command, and run and write nothing")
    return parser


def defaults(sizes: dict[str, Any], value: Callable[[Any], str]) -> str:
    """A default by size, as text."""
    values = {name: value(size) for name, size in sizes.items()}
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return "; ".join(f"{name}: {text}" for name, text in values.items())


def parse(experiment: type[Experiment], words: list[str]) -> argparse.Namespace:
    """An experiment's options; ends the program in one line if they are wrong."""
    place = words.index("--") if "--" in words else len(words)
    options, unknown = parser_of(experiment).parse_known_args(words[:place])
    options.further = words[place + 1 :]
    if options.dry_run:  # commands are for a shell at the repository's root
        for name, value in vars(options).items():
            setattr(options, name, value.absolute() if isinstance(value, Path) else value)
    if unknown:
        die(f"unknown argument {unknown[0]}; see --help")
    if options.size not in experiment.sizes:
        known = ", ".join(experiment.sizes)
        known = f"choose from {known}" if len(experiment.sizes) > 1 else f"there is only {known}"
        die(f"unknown size {options.size}; {known}")
    if options.stage > options.stop_stage:
        die(f"--stage {options.stage} comes after --stop-stage {options.stop_stage}: nothing would be done")
    return options
