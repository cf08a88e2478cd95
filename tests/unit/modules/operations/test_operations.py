"""Every registered operation: causal where it must be, decoded vector by vector as all at once, blind to pads."""

import pytest
import torch
from torch import Tensor, nn

from fairseq_infformer.modules.operations import (
    DECODER_OPERATIONS,
    ENCODER_OPERATIONS,
    OPERATIONS,
    Node,
    Operation,
    Sizes,
    Surroundings,
    build_operation,
    register_operation,
    reordered_cache,
)
from fairseq_infformer.modules.reversible import ReversibleSequence
from fairseq_infformer.modules.settings import SettingError

SIZES = Sizes(width=8, source_width=12, heads=2, hidden=16)
LENGTH = 9
SOURCE_PADS = torch.tensor([[True, True, False, False, False, False], [False] * 6, [False] * 5 + [True]])


def build(name: str, causal: bool) -> nn.Module:
    torch.manual_seed(0)
    return build_operation(name, SIZES, causal).double()


def sentences() -> tuple[Tensor, Surroundings]:
    torch.manual_seed(1)
    x = torch.randn(3, LENGTH, 8, dtype=torch.float64)
    return x, Surroundings(source=torch.randn(3, 6, 12, dtype=torch.float64), source_pads=SOURCE_PADS)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_operation_decodes_vector_by_vector_what_it_gives_at_once(name):
    operation, (x, surroundings) = build(name, True), sentences()
    expected, order = operation(x, surroundings), torch.tensor([2, 0, 0])
    cached = surroundings._replace(cache={})
    first = [operation(part, cached) for part in (x[:, :1], x[:, 1:4], x[:, 4:5])]
    # A beam search goes on with other rows, the source among them.
    cached = Surroundings(None, cached.source[order], SOURCE_PADS[order], reordered_cache(cached.cache, order))
    rest = [operation(x[order, t : t + 1], cached) for t in range(5, LENGTH)]
    assert_close(torch.cat(first, dim=1), expected[:, :5])
    assert_close(torch.cat(rest, dim=1), expected[order, 5:])


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_causal_operation_does_not_see_the_future(name):
    operation, (x, surroundings) = build(name, True), sentences()
    before = operation(x, surroundings)[:, :5]
    x[:, 5:] += 1
    assert_close(operation(x, surroundings)[:, :5], before)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("left", [True, False])
def test_operation_in_both_directions_ignores_pads(name, left):
    operation, (x, surroundings) = build(name, False), sentences()
    expected = operation(x, surroundings)
    noise = torch.full((3, 4, 8), 7.0).double()
    padded = torch.cat([noise, x] if left else [x, noise], dim=1)
    kept = slice(4, None) if left else slice(LENGTH)
    pads = torch.ones(3, LENGTH + 4, dtype=torch.bool)
    pads[:, kept] = False
    assert_close(operation(padded, surroundings._replace(pads=pads))[:, kept], expected)


@pytest.mark.parametrize("name", sorted(name for name in OPERATIONS if OPERATIONS[name].operation.needs_source))
def test_operation_ignores_pads_of_the_source(name):
    operation, (x, surroundings) = build(name, True), sentences()
    expected = operation(x, surroundings)
    changed = surroundings.source.masked_fill(SOURCE_PADS[:, :, None], 9.0)
    assert_close(operation(x, surroundings._replace(source=changed)), expected)
    alone = surroundings._replace(source=surroundings.source[:1, 2:], source_pads=None)
    assert_close(operation(x[:1], alone), expected[:1])


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"zero", "identity"}))
def test_operation_gives_every_parameter_a_gradient(name):
    operation, (x, surroundings) = build(name, True), sentences()
    (operation(x, surroundings) * torch.randn(8).double()).sum().backward()
    assert [name for name, parameter in operation.named_parameters() if parameter.grad is None] == []


def test_zero_and_identity_are_what_they_are_called():
    x, surroundings = sentences()
    assert torch.equal(build("zero", True)(x, surroundings), torch.zeros_like(x))
    assert torch.equal(build("identity", True)(x, surroundings), x)


def test_paper_has_13_operations_in_the_encoder_and_14_in_the_decoder():
    assert (len(ENCODER_OPERATIONS), len(DECODER_OPERATIONS)) == (13, 14)
    assert not any(OPERATIONS[name].operation.needs_source for name in ENCODER_OPERATIONS)
    assert set(DECODER_OPERATIONS) | {"continuous-attention"} == set(OPERATIONS)


def test_node_weighs_its_operations_on_the_pooled_parts():
    x, surroundings = sentences()
    node = Node([build("identity", True), build("zero", True)], "mean", place=(1, 0))
    weights = torch.tensor([[[0.0, 1.0]], [[0.25, 0.75]]])
    assert_close(node([x, 3 * x], surroundings, weights), 0.5 * x)
    assert_close(Node([build("identity", True)])([x, -x], surroundings), x.abs())


def test_nodes_in_a_reversible_sequence_have_the_gradients_of_plain_back_propagation():
    x, surroundings = sentences()
    names = [*DECODER_OPERATIONS, "continuous-attention"]
    nodes = [[Node([build(name, True) for name in names], place=(0, k)) for k in range(2)] for _ in range(2)]
    outcomes = []
    for recompute in (True, False):
        net = ReversibleSequence(nodes, recompute=recompute)
        scores = torch.linspace(-1, 1, 2 * len(names), dtype=torch.float64).view(1, 2, -1).requires_grad_()
        source = surroundings.source.clone().requires_grad_()
        doubled = torch.cat([x, x.roll(1, 0)], dim=-1).requires_grad_()
        y = net(doubled, surroundings._replace(source=source), scores.softmax(-1))
        outcomes.append(torch.autograd.grad(y.square().sum(), [scores, source, doubled, *net.parameters()]))
    for found, expected in zip(*outcomes):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_register_operation_makes_it_known_and_refuses_a_second_of_its_name(monkeypatch):
    monkeypatch.setattr("fairseq_infformer.modules.operations.base.OPERATIONS", dict(OPERATIONS))

    @register_operation("scale", factor=3)
    class Scale(Operation):
        residual = False

        def __init__(self, sizes: Sizes, causal: bool, *, factor: float) -> None:
            super().__init__(sizes, causal)
            self.factor = factor

        def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
            return self.factor * x

    x, surroundings = sentences()
    assert torch.equal(build("scale", True)(x, surroundings), 3 * x)
    with pytest.raises(ValueError, match="'scale' is registered already"):
        register_operation("scale")(Scale)


def test_unknown_operation_is_refused():
    with pytest.raises(SettingError, match=r"operation must be one of .*, got 'pooling'"):
        build("pooling", True)
