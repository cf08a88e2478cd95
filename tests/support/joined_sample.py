"""A sample of several segments, and the loss and gradients that a model has of it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from small_model import TYPES, dictionary

from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy

ROWS, WIDTH, SEGMENTS = 3, 5, 4


def sample(answers: bool = False, replayed: bool = False) -> dict[str, Any]:
    """Ragged rows; row 1 starts anew in segment 2, and row 2 has no text left in the last one."""
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(4, TYPES, size=(ROWS, SEGMENTS * WIDTH + 1)))
    lengths = np.array([[5, 5, 5, 4], [5, 3, 5, 5], [5, 5, 2, 0]])
    reset = np.zeros((ROWS, SEGMENTS), dtype=bool)
    reset[:, 0] = reset[1, 2] = True
    pads = (torch.arange(WIDTH) >= torch.from_numpy(lengths)[:, :, None]).flatten(1)
    if answers:
        pads = pads | (torch.from_numpy(rng.random(pads.shape)) < 0.7)
    target = tokens[:, 1:].masked_fill(pads, dictionary().pad())
    return {
        "net_input": {
            "src_tokens": tokens[:, :-1],
            "segment": 0,
            "lengths": lengths,
            "reset": reset,
            "replayed": replayed,
        },
        "target": target,
        "ntokens": int((~pads).sum()),
    }


def losses(model: Any, batch: dict[str, Any], answers: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a sample and its gradients, with the same random numbers each time."""
    model.decoder.streams.clear()
    model.zero_grad()
    torch.manual_seed(7)
    loss, _, _ = LtmCrossEntropy(SimpleNamespace(target_dictionary=dictionary()), answers)(model, batch)
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def slopes(model: Any, step: float) -> tuple[float, float]:
    """The slope of the loss in a random direction of all parameters: by differences over 2 step, by gradients."""
    _, gradients = losses(model, sample())
    generator = torch.Generator().manual_seed(3)
    parameters = dict(model.named_parameters())
    directions = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in parameters.items()}
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.add_(sign * step * directions[name])
        ends.append(losses(model, sample())[0])
    by_gradients = sum(float((gradients[name] * directions[name]).sum()) for name in parameters)
    return float(ends[0] - ends[1]) / (2 * step), by_gradients
