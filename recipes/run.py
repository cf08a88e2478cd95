"""Run a recipe: ``python -m recipes.run NAME [STAGE] [options]``, all of its stages or the one that is named.

``python -m recipes.run NAME --help`` lists the recipe's stages and options.
"""

import os
import sys
from importlib import import_module

from recipes import commands
from recipes.experiment import PYTHON, Experiment
from recipes.launches import ROOT, die
from recipes.options import parse


def experiment_of(words: list[str]) -> type[Experiment]:
    """The experiment that the first word names."""
    known = sorted(folder.parent.name for folder in ROOT.glob("recipes/*/run.sh"))
    if words[:1] in ([], ["-h"], ["--help"]):
        print(f"{__doc__}\nRecipes: {', '.join(known)}")
        sys.exit(0 if words else 2)
    if words[0] not in known:
        die(f"unknown recipe {words[0]}; choose from {', '.join(known)}")
    return import_module(f"recipes.{words[0]}.experiment").EXPERIMENT


def run_stage(experiment: Experiment, name: str) -> None:
    """Run a stage, or print its commands; ends the program if one fails."""
    todo: list[commands.Command] = getattr(experiment, name)()
    if experiment.options.dry_run:
        threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""
        for command in todo:
            print(f"{threads}{command}" if name in experiment.side_by_side else command, flush=True)
        return
    if name != "install" and not PYTHON.exists():
        die("nothing is installed yet: run stage 0, which makes .venv")
    if failed := commands.run(todo, experiment.jobs if name in experiment.side_by_side else None):
        sys.exit(failed)


def main() -> None:
    kind = experiment_of(sys.argv[1:])
    words = sys.argv[2:]
    stages = {"install": "install", **kind.stages}
    named = words.pop(0) if words and words[0] in stages else None
    options = parse(kind, words)
    experiment = kind(options)
    # Threads of trainings side by side would wait for each other.
    if experiment.jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # fairseq's first lines are deprecation warnings of its own libraries.
    os.environ["PYTHONWARNINGS"] = "ignore"
    os.environ["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    for place, (name, what) in enumerate(stages.items()):
        if options.stage <= place <= options.stop_stage and named in (None, name):
            header = f"stage {place}: {what}"
            print(
                f"# {header}" if options.dry_run else f"--- {header}",
                file=sys.stdout if options.dry_run else sys.stderr,
            )
            if place:  # the environment is made by the caller's Python; all else runs in it
                os.environ["PYTHON"] = str(PYTHON)
            run_stage(experiment, name)


if __name__ == "__main__":
    main()
