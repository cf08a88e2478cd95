"""What wait-k lets each word see, and that attention sees no more."""

import pytest
import torch

from fairseq_infformer.modules.layers import MemformerDecoderLayer
from fairseq_infformer.modules.settings import SettingError
from fairseq_infformer.modules.wait_k import visible_states


def test_visible_states_grow_by_one_read_per_word_to_all():
    visible = visible_states(torch.tensor([10, 4]), 4, wait_k=2, pre_decision=3)
    assert visible.tolist() == [[6, 9, 10, 10], [4, 4, 4, 4]]
    assert visible_states(torch.tensor([10, 4]), 2, wait_k=None, pre_decision=3).tolist() == [[10, 10], [4, 4]]


def test_decoder_layer_reads_no_state_that_its_word_may_not_see():
    torch.manual_seed(0)
    layer = MemformerDecoderLayer(8, 2, 16).eval()
    x, encoded = torch.randn(1, 4, 8), torch.randn(1, 10, 8, requires_grad=True)
    visible = visible_states(torch.tensor([10]), 4, wait_k=1, pre_decision=2)
    for word, count in enumerate([2, 4, 6, 8]):
        (gradient,) = torch.autograd.grad(layer(x, encoded, visible)[0, word].square().sum(), encoded)
        assert gradient[0].any(1).tolist() == [True] * count + [False] * (10 - count)


@pytest.mark.parametrize(("k", "r", "message"), [(0, 3, "wait_k must be positive, got 0"), (1, 0, "pre_decision must")])
def test_visible_states_refuse_a_policy_that_reads_nothing(k, r, message):
    with pytest.raises(SettingError, match=message):
        visible_states(torch.tensor([10]), 4, k, r)
