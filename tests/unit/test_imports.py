"""Imports run one way: models → pretrained → modules, criterions → modules, tasks → data; modules know torch alone."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import ROOT

PACKAGE = ROOT / "fairseq_infformer"
NAME = PACKAGE.name

# What each part of the package may import of the others, beside itself. fairseq imports tasks and models, and these
# import the plugin.
FLOOR = {"errors", "files", "protocols", "vocabulary_files"}
ALLOWED = {
    "modules": set(),
    "data": FLOOR,
    "speech": FLOOR,
    "criterions": FLOOR | {"modules"},
    "tasks": FLOOR | {"data", "plugin"},
    "models": FLOOR | {"modules", "plugin", "pretrained"},
    "pretrained": FLOOR | {"modules"},
    "inspect": FLOOR | {"modules", "models"},
}


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, wherever in the file it does."""
    # Parts of the package that holds the file; the k-th leading dot takes away k - 1 of them.
    package = path.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(part: str) -> list[Path]:
    return sorted((PACKAGE / part).rglob("*.py"))


def imported_parts(part: str) -> set[str]:
    """The other parts of this package that the files of ``part`` import."""
    names = [name.split(".") for path in files(part) for name in imports(path)]
    return {name[1] for name in names if name[0] == NAME and len(name) > 1} - {part}


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_run_one_way(part):
    assert files(part), "the part should be there"
    assert imported_parts(part) <= ALLOWED[part]


@pytest.mark.parametrize(("part", "more"), [("modules", set()), ("pretrained", {"transformers"})])
def test_modules_and_pretrained_import_only_torch_and_what_they_are_for(part, more):
    known = {"torch", NAME, *sys.stdlib_module_names} | more
    for path in files(part):
        own = {"triton"} if path.stem == "triton" else set()
        assert {name.split(".")[0] for name in imports(path)} <= known | own, path.name


def fresh(code: str, path: Path) -> subprocess.CompletedProcess:
    """Run code in an interpreter of its own, with warnings off."""
    environment = os.environ | {"PYTHONPATH": f"{path}:{PACKAGE.parent}", "PYTHONWARNINGS": "ignore"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_modules_import_nothing_of_fairseq_or_transformers_and_change_nothing(tmp_path):
    code = (
        "import logging, sys\n"
        "hook, handlers = sys.excepthook, logging.root.handlers[:]\n"
        "import fairseq_infformer.modules\n"
        "assert sys.excepthook is hook and logging.root.handlers == handlers\n"
        "others = ('fairseq', 'fairseq_cli', 'hydra', 'transformers')\n"
        "print([name for name in sys.modules if name.split('.')[0] in others])"
    )
    done = fresh(code, tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_plugin_that_does_not_import_this_one_ends_in_one_line(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text(
        "from fairseq_infformer.modules import DENSITIES, register_density\n\n"
        "@register_density('mine')\nclass Mine(DENSITIES['gaussian']):\n    pass\n"
    )
    code = "from fairseq_cli.train import cli_main\nimport sys\n"
    code += f"sys.argv = ['fairseq-train', 'data', '--user-dir', {str(tmp_path / 'mine')!r}]\ncli_main()"
    done = fresh(code, tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: the plugin that registers Mine must begin with `import fairseq_infformer.plugin`" in done.stderr


def test_console_scripts_without_fairseq_end_in_one_line(tmp_path):
    code = "import sys\nsys.modules['fairseq'] = None\n"
    code += "import importlib.util\nimportlib.util.find_spec = lambda name: None\n"
    code += "from fairseq_infformer import cli\ncli.infformer_eval()"
    done = fresh(code, tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(
        "error: infformer-eval needs fairseq, which is not installed; "
    )


def test_readme_example_of_the_memory_runs_without_fairseq_and_triton(tmp_path):
    section = (PACKAGE.parent / "README.md").read_text(encoding="utf-8").split("## The memory in Python")[1]
    example = section.split("```python\n")[1].split("```")[0]
    code = "import sys\nsys.modules['fairseq'] = sys.modules['triton'] = None\n" + example
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("R² of the oldest")


def test_imports_lists_relative_and_absolute_imports():
    assert "modules" in imported_parts("models")
    assert "data" in imported_parts("tasks")
    assert f"{NAME}.modules.memories.continuous.basis.gaussian_pdf" in set(
        imports(PACKAGE / "modules/memories/continuous/density.py")
    )
    assert f"{NAME}.errors.InputError" in set(imports(PACKAGE / "__init__.py"))


def test_package_import_leaves_logging_unchanged():
    code = "import logging, fairseq_infformer; root = logging.getLogger(); print(root.level, root.handlers)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "30 []\n" and done.stderr == ""
