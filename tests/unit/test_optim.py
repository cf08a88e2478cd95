"""Adam for two groups of parameters."""

import torch
from torch import nn

from fairseq_infformer.optim import SearchAdam, SearchAdamConfig


def test_search_adam_trains_weights_and_architecture_as_two_optimizers_would():
    torch.manual_seed(0)
    start = [torch.randn(3) for _ in range(2)]
    weights, alpha, *expected = (nn.Parameter(each.clone()) for each in start * 2)
    alpha.param_group = "architecture"
    cfg = SearchAdamConfig(lr=[0.1], adam_betas="(0.9, 0.98)", weight_decay=0.01)
    both = SearchAdam(cfg, [weights, alpha])
    settings = {"betas": (0.9, 0.98), "eps": 1e-8}
    two = [
        torch.optim.AdamW([expected[0]], lr=0.1, weight_decay=0.01, **settings),
        torch.optim.AdamW([expected[1]], lr=3e-4, weight_decay=1e-3, **settings),
    ]
    for update in range(6):
        if update == 4:  # a resume, under another rate of the schedule
            saved, both = both.state_dict(), SearchAdam(cfg, [weights, alpha])
            both.load_state_dict(saved)
            both.set_lr(0.02)
            two[0].param_groups[0]["lr"] = 0.02
        gradient = torch.randn(3)
        trained, resting = ((weights, expected[0]), alpha) if update % 2 == 0 else ((alpha, expected[1]), weights)
        for parameter in trained:
            parameter.grad = gradient.clone()
        resting.grad = torch.zeros(3)  # as when several processes add up what none has
        both.step()
        two[update % 2].step()
    torch.testing.assert_close(weights, expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(alpha, expected[1], rtol=1e-6, atol=1e-6)
