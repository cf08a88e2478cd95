"""A recipe's experiment, as its command line makes it."""

from importlib import import_module

from recipes.experiment import Experiment
from recipes.options import parse


def experiment(name: str, *words: object) -> Experiment:
    recipe = import_module(f"recipes.{name}.experiment").EXPERIMENT
    return recipe(parse(recipe, [str(word) for word in words]))
