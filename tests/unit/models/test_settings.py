"""A setting has one name and one default, in Python and on the command line; old names work for one more version."""

import inspect
from dataclasses import fields

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_infformer.models.infinite_former_lm import build_long_term_memory
from fairseq_infformer.modules import (
    CompressiveMemory,
    ContinuousAttention,
    ContinuousLongTermMemory,
    ContinuousMemory,
    GaussianBasis,
)
from fairseq_infformer.modules.attention import RelativeAttention
from fairseq_infformer.modules.memories import MEMORIES, LongTermMemory
from fairseq_infformer.modules.memories.slots import SlotMemory

BASIS = GaussianBasis(8, (0.1, 0.2))
DIM, HEADS = 16, 2


def parameters_of(module: type) -> dict[str, object]:
    return {name: parameter.default for name, parameter in inspect.signature(module).parameters.items()}


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("continuous", [GaussianBasis, ContinuousMemory, ContinuousAttention, ContinuousLongTermMemory]),
        ("compressive", [CompressiveMemory]),
        ("slots", [SlotMemory]),
    ],
)
def test_defaults_of_modules_are_those_of_the_options(name, modules):
    in_python = {"basis": parameters_of(GaussianBasis)["num_basis"]} if name == "continuous" else {}
    for module in modules:
        given = {key: value for key, value in parameters_of(module).items() if value is not inspect.Parameter.empty}
        in_python |= {key: value for key, value in given.items() if key not in ("num_basis", "head_dim", "seed")}
    assert in_python == {setting.name: setting.default for setting in fields(MEMORIES[name].settings)}


def by_options(*flags: object) -> LongTermMemory:
    """The memory of a layer, as fairseq-train builds it."""
    size = ["--decoder-embed-dim", DIM, "--decoder-attention-heads", HEADS]
    arguments = ["data", "--task", "streaming_language_modeling", "--arch", "infinite_former_lm", *size, *flags]
    args = options.parse_args_and_arch(options.get_training_parser(), [str(part) for part in arguments])
    torch.manual_seed(0)
    return build_long_term_memory(convert_namespace_to_omegaconf(args).model, layer=0)


def continuous(memory: dict, attention: dict, **basis: object) -> ContinuousLongTermMemory:
    torch.manual_seed(0)
    functions = GaussianBasis(**basis)
    return ContinuousLongTermMemory(
        ContinuousMemory(functions, **memory), ContinuousAttention(DIM, HEADS, functions, **attention)
    )


def compressive(**settings: object) -> CompressiveMemory:
    torch.manual_seed(0)
    return CompressiveMemory(DIM, **settings)


def slots(*settings: object) -> SlotMemory:
    torch.manual_seed(0)
    return SlotMemory(DIM, HEADS, *settings)


SMALL = ["--ltm-basis", 8, "--ltm-widths", "0.1,0.2", "--ltm-samples", 16]
PAPER = ["--ltm-contraction", "fixed", "--ltm-density", "gaussian", "--ltm-min-sigma", 0, "--ltm-flat-start"]


@pytest.mark.parametrize(
    ("flags", "in_python"),
    [
        (SMALL, lambda: continuous({"samples": 16}, {}, num_basis=8, widths=(0.1, 0.2))),
        (
            [*SMALL, *PAPER, "--ltm-tau", 0.6, "--ltm-ridge", 0.5],
            lambda: continuous(
                {"samples": 16, "contraction": "fixed", "tau": 0.6, "ridge": 0.5},
                {"density": "gaussian", "min_sigma": 0, "flat_start": True},
                num_basis=8,
                widths=(0.1, 0.2),
            ),
        ),
        (
            [*SMALL, "--ltm-sampling", "sticky", "--ltm-horizon", 9, "--ltm-addressing", "mixed"],
            lambda: continuous(
                {"samples": 16, "sampling": "sticky", "horizon": 9},
                {"addressing": "mixed"},
                num_basis=8,
                widths=(0.1, 0.2),
            ),
        ),
        (["--long-term-memory", "compressive"], compressive),
        (
            ["--long-term-memory", "compressive", "--compressive-length", 5, "--compressive-function", "max"],
            lambda: compressive(length=5, function="max"),
        ),
        (["--long-term-memory", "slots", "--slots-count", 5, "--slots-temperature", 0.5], lambda: slots(5, 0.5)),
    ],
    ids=["continuous", "paper", "sticky", "compressive", "compressive-max", "slots"],
)
def test_python_and_the_command_line_build_the_same_memory(flags, in_python):
    torch.manual_seed(1)
    new, query = torch.randn(2, 6, DIM), torch.randn(2, 3, DIM)
    attention, lengths = RelativeAttention(DIM, HEADS), torch.tensor([3, 3])
    results = []
    for memory in (by_options(*flags), in_python()):
        state, report, values = memory.initial_state(2), None, []
        for _ in range(3):
            state = memory.write(state, new, report=report)
            read = memory.read(query, query, lengths, state, attention)
            report, values = read.report, [*values, read.context, report and list(report), read.extra]
        results.append((str(memory), dict(memory.state_dict()), list(state), values))
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1:], results[1][1:], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "old", "attribute", "value"),
    [
        (lambda **given: ContinuousMemory(BASIS, **given), {"num_samples": 16}, "samples", 16),
        (lambda **given: ContinuousAttention(DIM, HEADS, BASIS, **given), {"min_width": 0.3}, "min_sigma", 0.3),
        (lambda **given: ContinuousAttention(DIM, HEADS, BASIS, **given), {"min_width": None}, "min_sigma", 0.1),
        (lambda **given: ContinuousAttention(DIM, HEADS, BASIS, **given), {"head_start": False}, "mean_offset", None),
        (lambda **given: CompressiveMemory(DIM, **given), {"num_slots": 5}, "length", 5),
        (lambda **given: CompressiveMemory(DIM, **given), {"compression": "max"}, "function", "max"),
    ],
)
def test_an_old_name_works_and_warns_of_the_new_one(make, old, attribute, value):
    with pytest.warns(DeprecationWarning, match=f"{next(iter(old))} is now .*; give "):
        module = make(**old)
    assert getattr(module, attribute) == value


def test_an_old_name_beside_the_new_one_is_refused():
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="head_start is the old name of not flat_st"):
        ContinuousAttention(DIM, HEADS, BASIS, head_start=True, flat_start=True)
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="multiple values for argument 'samples'"):
        ContinuousMemory(BASIS, 16, num_samples=16)
