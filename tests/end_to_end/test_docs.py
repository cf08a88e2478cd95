"""README and docs: code runs and prints what they say, options exist, links lead somewhere."""

import contextlib
import io
import json
import os
import pkgutil
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import run
from fairseq import options
from forking import ROOT, ended, fork

from fairseq_infformer import modules
from fairseq_infformer.cli import (
    architecture,
    evaluate,
    export,
    generate,
    inspection,
    prepare,
    prepare_speech,
    simultaneous,
)
from fairseq_infformer.cli import read as read_book
from fairseq_infformer.models import pretrained_lm
from recipes.lm_eval import tasks

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
OPTION = r"(?<![\w-])--[a-z][\w-]*\w"
# Commands that are neither this project's nor fairseq's.
OTHERS = {"source", "pip", "python", "infformer-lm-eval"}
PROGRAMS = {
    "prepare.sh": prepare,
    "infformer-eval": evaluate,
    "infformer-export": export,
    "infformer-read": read_book,
    "infformer-generate": generate,
    "infformer-inspect": inspection,
    "infformer-architecture": architecture,
    "infformer-simultaneous": simultaneous,
    "prepare_speech.sh": prepare_speech,
    "lm_eval.tasks": tasks,
}


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language and text of each block of a page, and the output that stands right below it, if any."""
    found = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
    outputs = {block.start(): block[2] for block in found if not block[1]}
    return [(block[1], block[2], outputs.get(block.end(), "")) for block in found]


def blocks_in(page: Path, language: str) -> list[str]:
    return [text for of, text, _ in blocks(page) if of == language]


# The example of evaluation.md needs an exported model: test_pretrained.py runs it.
PYTHON = [page for page in PAGES if blocks_in(page, "python") and page.name != "evaluation.md"]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_page_code_runs_and_prints_its_output(page, tmp_path):
    """All blocks in the order of the page, in one namespace and a process of their own: some register things."""

    def work() -> None:
        names, printed = {"__name__": "page"}, []
        os.chdir(tmp_path)  # what a page saves
        try:
            for language, code, output in blocks(page):
                if language == "python":
                    with contextlib.redirect_stdout(io.StringIO()) as out:
                        exec(compile(code, page.name, "exec"), names)
                    printed.append((out.getvalue(), output))
        except BaseException:
            printed.append((traceback.format_exc(), "no error"))
        (tmp_path / "printed").write_text(json.dumps(printed))

    assert ended(fork(work)) == 0
    for printed, output in json.loads((tmp_path / "printed").read_text()):
        assert printed == output


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in the shell blocks of a page, from the name of what reads the options on."""
    for text in blocks_in(page, "bash"):
        text = text.replace("\\\n", " ").replace("$(which fairseq-train)", "fairseq-train").replace("…", "")
        for line in text.replace("&&", "\n").splitlines():
            if words := shlex.split(line, comments=True):
                if words[0] == "torchrun":
                    line = line.replace("-m fairseq_infformer.cli.evaluate", "infformer-eval")
                    words = shlex.split(line)
                    words = words[next(i for i, word in enumerate(words) if word in READERS) :]
                yield words


def read_training(words: list[str]) -> None:
    options.parse_args_and_arch(options.get_training_parser(), words)


def read_scoring(words: list[str]) -> None:
    options.parse_args_and_arch(options.get_eval_lm_parser(), words)


def read_translating(words: list[str]) -> None:
    options.parse_args_and_arch(options.get_generation_parser(), words)


def read_prompting(words: list[str]) -> None:
    options.parse_args_and_arch(options.get_interactive_generation_parser(), words)


READERS = {
    "fairseq-generate": read_translating,
    "fairseq-interactive": read_prompting,
    "fairseq-train": read_training,
    "fairseq-eval-lm": read_scoring,
    **{name: lambda words, of=of: of.build_parser().parse_args(words) for name, of in PROGRAMS.items()},
}


def read(words: list[str]) -> None:
    """Read a command's options as the command does; SystemExit if it would refuse them."""
    name = Path(words[0]).name
    if name in READERS:
        READERS[name](words[1:])
    elif name not in OTHERS:
        script = (ROOT / words[0]).read_text(encoding="utf-8")
        assert all(word in script for word in words[1:] if word.startswith("--")), words


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_in(page, "bash")], ids=lambda page: page.name)
def test_page_commands_have_options_that_exist(page, tmp_path, monkeypatch):
    # There are no folders GPT2 and SmolLM2-135M.
    monkeypatch.setattr(pretrained_lm, "read_config", lambda folder: "{}")
    monkeypatch.chdir(ROOT)

    def work() -> None:  # in a process of its own: some name plugins, which stay imported
        problem = ""
        with contextlib.redirect_stderr(io.StringIO()) as error:
            for words in commands(page):
                try:
                    read(words)
                except BaseException:
                    problem += f"{' '.join(words)}: {error.getvalue()[-300:]}{traceback.format_exc()[-300:]}"
        (tmp_path / "problem").write_text(problem)

    assert ended(fork(work)) == 0
    assert (tmp_path / "problem").read_text() == ""


def test_page_prose_names_options_that_exist():
    parsers = [options.get_training_parser(), options.get_eval_lm_parser(), options.get_generation_parser()]
    parsers.append(options.get_preprocessing_parser())
    parsers += [program.build_parser() for program in PROGRAMS.values()]
    known = {option for parser in parsers for option in parser._option_string_actions}
    page_of_options = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "recipes").rglob("*.sh")]
    known |= {option for text in [page_of_options, *scripts] for option in re.findall(OPTION, text)}
    # Of pip, torchrun, ruff, docs.options, the example's memory, fairseq's tasks and optimizers.
    known |= {"--no-build-isolation", "--standalone", "--nproc-per-node", "--check", "--mean-scale", "--help"}
    known |= {"--lr", "--model-overrides", "--fp16-no-flatten-grads", "--label-smoothing"}
    known |= {"--load-pretrained-encoder-from"}
    # Of the LM Evaluation Harness.
    known |= {"--model", "--model_args", "--include_path", "--tasks", "--batch_size"}
    for page in PAGES:
        assert set(re.findall(OPTION, page.read_text(encoding="utf-8"))) <= known, page.name


def test_page_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path = target.partition("#")[0]
            assert "://" in target or not path or (page.parent / path).exists(), f"{page.name}: {target}"


def test_options_page_is_what_the_code_gives():
    """In an interpreter of its own: other tests register memories, whose options stay."""
    run(sys.executable, "-m", "docs.options", "--check")


def test_python_page_lists_what_modules_export():
    rows = re.findall(r"^\| (`.*?`) \|", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(.+?)`", row)}
    assert set(modules.__all__) <= listed
    for name in listed:
        pkgutil.resolve_name(f"fairseq_infformer.modules.{name}")


def test_readme_names_the_versions_of_setup():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    python, torch = (re.search(pattern, setup)[1] for pattern in (r'python_requires=">=(.+)"', r'"torch>=([\d.]+),'))
    tested = re.search(r"TORCH_VERSION:-(.+?)}", (ROOT / "recipes/setup.sh").read_text(encoding="utf-8"))[1]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {python} or newer, torch {torch} or newer (tested: {tested})" in text


def test_readme_is_short_and_its_test_command_is_what_ci_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 120
    assert "`./tests/run.sh`" in text and "\n./tests/run.sh\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_contributing_names_tests_that_exist():
    """A name without a file is of the file before it."""
    table = re.findall(r"^\|.*", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    named = re.findall(r"`([\w/]+\.py)?(?:::(test_\w+))?`", "\n".join(table))
    for number, (file, test) in enumerate(named):
        path = ROOT / "tests" / (file or next(earlier for earlier, _ in named[number::-1] if earlier))
        assert f"def {test}" in path.read_text(), (file, test)
    assert len(named) > 30
