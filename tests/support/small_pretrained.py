"""Small random models of ``transformers``, and texts for them."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fairseq_infformer.pretrained import InfformerForCausalLM, attach

VOCABULARY, SEGMENT = 50, 8
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
ARCHITECTURES = {
    "gpt2": {"n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
}
CONTINUOUS = {"memory": "continuous", "basis": 16, "widths": (0.05, 0.2), "samples": 32}
GIBBS = CONTINUOUS | {"density": "gibbs"}
COMPRESSIVE = {"memory": "compressive", "length": 6, "rate": 2}
BANK = {"memory": "bank", "length": 3}
HITTERS = {"memory": "heavy-hitters", "length": 12, "half_life": 16}


def base(architecture: str = "llama", **settings: Any) -> PreTrainedModel:
    """A model with weights of some size, so that all it attends to matters."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, eos_token_id=None, **SIZES | ARCHITECTURES[architecture] | settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def attached(architecture: str = "llama", gate: float | None = 0.7, **settings: Any) -> InfformerForCausalLM:
    """A model with a memory that is read; ``gate=None``: with the gates as they start."""
    model = attach(base(architecture), **{"segment": SEGMENT} | settings)
    if gate is not None:
        for gated in model.memories.values():
            torch.nn.init.constant_(gated.gate, gate / gated.scale)
    return model


def text(length: int, rows: int = 1, seed: int = 0) -> Tensor:
    """Random tokens (rows, length)."""
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal but for rounding in float32: 1e-5 of the largest value, a hundred roundings."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
