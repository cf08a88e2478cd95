"""Write docs/options.md: all options of this project, as the code that declares them describes them.

  python -m docs.options [--check]

--check writes nothing, and fails if the page is not what the code gives.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import fairseq_infformer.plugin  # noqa: F401  (first: importing fairseq configures logging otherwise)

# isort: split
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY
from fairseq.optim.adam import FairseqAdamConfig

from fairseq_infformer.cli import (
    architecture,
    evaluate,
    export,
    generate,
    inspection,
    prepare,
    prepare_speech,
    read,
    simultaneous,
)
from fairseq_infformer.errors import option as option_name
from fairseq_infformer.models.configuration import InfiniteFormerConfig, options_of
from fairseq_infformer.models.dartsformer.configuration import DartsformerConfig, DartsformerSearchConfig
from fairseq_infformer.models.memformer_lm import MemformerConfig
from fairseq_infformer.models.pretrained_lm import PretrainedConfig
from fairseq_infformer.models.streaming_translation import StreamingTranslationConfig
from fairseq_infformer.modules.memories import MEMORIES
from fairseq_infformer.optim import LtmAdamConfig, SearchAdamConfig
from fairseq_infformer.tasks.streaming_language_modeling import StreamingLanguageModelingConfig
from preprocess import generate_digit_speech, generate_documents, generate_recall, generate_sorting

PAGE = Path(__file__).resolve().with_name("options.md")
HEAD = """\
# Options

This page is written by `python -m docs.options`; change the code, not the page. An empty default means that the option
is not set. All other options of `fairseq-train` are fairseq's own: `fairseq-train --help` lists them.
"""
PROGRAMS = {
    "preprocess/prepare.sh": prepare,
    "preprocess/prepare_speech.sh": prepare_speech,
    "infformer-eval": evaluate,
    "infformer-export": export,
    "infformer-read": read,
    "infformer-generate": generate,
    "infformer-inspect": inspection,
    "infformer-architecture": architecture,
    "infformer-simultaneous": simultaneous,
    "preprocess/generate_documents.py": generate_documents,
    "preprocess/generate_sorting.py": generate_sorting,
    "preprocess/generate_recall.py": generate_recall,
    "preprocess/generate_digit_speech.py": generate_digit_speech,
}
# The models with options of their own, beside infinite_former_lm.
OTHER_MODELS = {
    "memformer_lm": MemformerConfig,
    "infinite_former_pretrained": PretrainedConfig,
    "streaming_translation": StreamingTranslationConfig,
    "dartsformer": DartsformerConfig,
    "dartsformer_search": DartsformerSearchConfig,
}
# The models whose named architectures differ in size.
SIZED = ("infinite_former_lm", *(model for model in OTHER_MODELS if model != "infinite_former_pretrained"))


def declared(dataclass: type[FairseqDataclass]) -> list[argparse.Action]:
    """The options that fairseq makes of a dataclass."""
    parser = argparse.ArgumentParser()
    gen_parser_from_dataclass(parser, dataclass())
    return parser._actions


def memory_options() -> Iterator[tuple[str, set[str]]]:
    """Each registered memory with the names of its options."""
    for name, registered in MEMORIES.items():
        yield name, {option_name(option) for option in options_of(registered).values()}


def row(action: argparse.Action) -> str:
    """A row of a table: option, meaning, default."""
    name = action.option_strings[-1] if action.option_strings else action.dest.upper()
    meaning = (action.help or "").replace("%(default)s", str(action.default))
    if noted := re.search(r" ?\(default: ([^)]*)\)", meaning):
        meaning, default = meaning.replace(noted[0], ""), noted[1]
    elif action.required:
        default = "must be given"
    elif action.nargs == 0:
        default = "off"
    else:
        default = "" if action.default is None else str(action.default)
    if action.choices:
        meaning += f" [{', '.join(action.choices)}]"
    for character, written in (("%%", "%"), ("<", "&lt;"), ("|", r"\|")):
        meaning = meaning.replace(character, written)
    return f"| `{name}` | {meaning} | {default} |"


def table(actions: list[argparse.Action]) -> str:
    """The table of some options, without --help."""
    rows = [row(action) for action in actions if not isinstance(action, argparse._HelpAction)]
    return "\n".join(["| option | meaning | default |", "|---|---|---|", *rows])


def architectures() -> str:
    """The named architectures, each with the defaults that it changes."""
    rows, baselines = [], []
    for name, set_defaults in ARCH_CONFIG_REGISTRY.items():
        model = ARCH_MODEL_NAME_REGISTRY.get(name)
        if model not in SIZED:
            continue
        if name == "infinite_former_gpt2":
            continue  # of checkpoints alone
        if model == "infinite_former_lm" and not name.startswith("infinite_former_"):
            baselines.append(f"`{name}`")
            continue
        set_defaults(changed := argparse.Namespace())
        options = [option_name(key) + ("" if value is True else f" {value}") for key, value in vars(changed).items()]
        rows.append(f"| `{name}` | {' '.join(f'`{option}`' for option in options)} |")
    table = "\n".join(["| `--arch` | defaults that differ |", "|---|---|", *rows])
    return f"{table}\n\nThe same sizes with another `--long-term-memory`: {', '.join(baselines)}."


def page() -> str:
    """The whole page."""
    model, of_memories = declared(InfiniteFormerConfig), dict(memory_options())
    own = set().union(*of_memories.values())
    adam = {name for action in declared(FairseqAdamConfig) for name in action.option_strings}
    sections = {
        "`--task streaming_language_modeling`": table(declared(StreamingLanguageModelingConfig)),
        "`--arch infinite_former_lm` and the other architectures": table(
            [action for action in model if not own & set(action.option_strings)]
        ),
        **{
            f"`--arch {arch}`": table([action for action in declared(config) if not own & set(action.option_strings)])
            for arch, config in OTHER_MODELS.items()
        },
        **{
            f"`--long-term-memory {name}`": table([action for action in model if options & set(action.option_strings)])
            for name, options in of_memories.items()
        },
        **{
            f"`--optimizer {name}`": "Adam's options, and\n\n"
            + table([action for action in declared(config) if not adam & set(action.option_strings)])
            for name, config in (("ltm_adam", LtmAdamConfig), ("search_adam", SearchAdamConfig))
        },
        "Named architectures": architectures(),
        **{f"`{program}`": table(module.build_parser()._actions) for program, module in PROGRAMS.items()},
    }
    return HEAD + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the page is not what the code gives")
    made = page()
    if not parser.parse_args().check:
        PAGE.write_text(made, encoding="utf-8")
    elif made != PAGE.read_text(encoding="utf-8"):
        sys.exit("error: docs/options.md is not what the code gives; run python -m docs.options")


if __name__ == "__main__":
    main()
