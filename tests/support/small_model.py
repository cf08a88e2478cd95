"""A model small enough to run hundreds of times, in whose logits every leak would show."""

import numpy as np
import torch
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_infformer.models.infinite_former_lm import InfiniteFormerConfig, InfiniteFormerLM
from fairseq_infformer.models.memformer_lm import MemformerConfig, MemformerLM

TYPES = 40
# Settings of ``build``, with each memory, density, addressing, sampling and position encoding.
VARIANTS = [
    {},
    {"long_term_memory": "none"},
    {"stm_length": 0},
    {"ltm_layers": "1", "ltm_contraction": "fixed"},
    {"ltm_density": "gaussian", "ltm_min_sigma": 0.0, "ltm_flat_start": True},
    {"ltm_sampling": "sticky", "ltm_density": "sparsemax"},
    {"ltm_addressing": "content"},
    {"ltm_addressing": "mixed", "ltm_sampling": "sticky"},
    {"ltm_sampling": "sticky-quantile", "ltm_contraction": "fixed"},
    {"position_encoding": "rope"},
    {"position_encoding": "alibi"},
    {"position_encoding": "learned", "stm_length": 0, "attention_bias": True, "no_scale_embedding": True},
    {"long_term_memory": "compressive", "compressive_length": 4, "compressive_rate": 2},
    {"long_term_memory": "compressive", "compressive_function": "max", "position_encoding": "rope"},
    {"long_term_memory": "compressive", "position_encoding": "learned", "stm_length": 0, "attention_bias": True},
    {"long_term_memory": "bank", "bank_length": 2},
    {"long_term_memory": "heavy-hitters", "hitters_length": 6, "hitters_half_life": 8},
    {"long_term_memory": "slots", "slots_count": 3},
    {"pointer_length": 4, "pointer_half_life": 8},
    {"pointer_length": 50, "long_term_memory": "none"},
]


def dictionary(prefix: str = "w") -> Dictionary:
    words = Dictionary()
    for number in range(TYPES - len(words)):
        words.add_symbol(f"{prefix}{number}")
    return words


def build(seed: int = 0, prefix: str = "w", **settings) -> InfiniteFormerLM:
    torch.manual_seed(seed)
    defaults = {
        "decoder_embed_dim": 16,
        "decoder_ffn_embed_dim": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "dropout": 0.0,
        "stm_length": 3,
        "ltm_basis": 8,
        "ltm_widths": "0.1,0.2",
        "ltm_samples": 16,
    }
    cfg = InfiniteFormerConfig(**(defaults | settings))
    model = InfiniteFormerLM.build(cfg, dictionary(prefix))
    with torch.no_grad():  # the memory's projections start at zero or too small for a leak to show
        for name, parameter in model.named_parameters():
            if "mean_proj" in name or "variance_proj" in name:
                parameter.mul_(20)
            elif "long_term_memory" in name and "out_proj" in name:
                torch.nn.init.xavier_uniform_(parameter)
    return model.eval()


def build_memformer(seed: int = 0, **settings) -> MemformerLM:
    torch.manual_seed(seed)
    defaults = {
        "decoder_embed_dim": 16,
        "decoder_ffn_embed_dim": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "dropout": 0.0,
        "slots_count": 3,
    }
    model = MemformerLM.build(MemformerConfig(**(defaults | settings)), dictionary())
    with torch.no_grad():  # what reads the memory starts at zero
        for name, parameter in model.named_parameters():
            if "reader.out_proj" in name:
                torch.nn.init.xavier_uniform_(parameter)
    return model.eval()


def run(model, tokens, segment_length, reset=None, lengths=None):
    """Logits of a text read in segments. ``reset`` and ``lengths``: by segment number, then row."""
    out = []
    for number, segment in enumerate(tokens.split(segment_length, dim=1)):
        rows, width = segment.shape
        first = np.full(rows, number == 0)
        out.append(
            model(
                segment,
                segment=number,
                lengths=np.array((lengths or {}).get(number, [width] * rows)),
                reset=first | np.array((reset or {}).get(number, [False] * rows)),
            )[0]
        )
    return torch.cat(out, dim=1)


def same_text(actual: Tensor, expected: Tensor) -> None:
    """Logits of the same text that was read in other shapes: other segments, another batch, other operators of rows.

    They are sums of 16 products, on average of size 1, that come after some ten sums of up to 32 each, and float32
    rounds by 6e-8: 1e-6 or two, which the projections of the densities, 20 times as large as they start, enlarge.
    """
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
