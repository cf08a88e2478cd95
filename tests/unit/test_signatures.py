"""No call of the package needs more than eight arguments in the right order: further ones go by keyword."""

import ast

from test_imports import PACKAGE

MOST = 8
# fairseq's own signature, and the kernels, which Triton calls by position.
EXCEPTED = {"get_batch_iterator", "_forward", "_backward_queries", "_backward_values"}


def num_positional(function: ast.FunctionDef) -> int:
    names = {each.arg for each in function.args.posonlyargs + function.args.args}
    return len(names - {"self", "cls", "ctx"})


def test_functions_take_at_most_eight_positional_parameters():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert {function.name for function in functions if num_positional(function) > MOST} == EXCEPTED
