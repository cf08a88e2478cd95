"""Named architectures of ``infinite_former_lm``: sizes that go together."""

from collections.abc import Callable
from typing import Any, Optional

from fairseq.models import register_model_architecture

from . import infinite_former_lm  # noqa: F401  (registers the model)


def set_defaults(args: Any, **defaults: Any) -> None:
    """Set the options that the user has not given."""
    # fairseq leaves a model's option out of args unless the user gave it.
    for name, value in defaults.items():
        setattr(args, name, getattr(args, name, value))


@register_model_architecture("infinite_former_lm", "infinite_former_lm_tiny")
def infinite_former_lm_tiny(args: Any) -> None:
    """Two layers that train in minutes on two CPU cores, as in the quickstart."""
    set_defaults(
        args,
        decoder_embed_dim=128,
        decoder_ffn_embed_dim=256,
        decoder_layers=2,
        decoder_attention_heads=4,
        dropout=0.0,
        stm_length=16,
        # One width, some 1.25 times as wide as the centres lie apart, averages all tokens evenly.
        ltm_basis=64,
        ltm_widths="0.02",
        ltm_samples=128,
        compressive_length=16,
    )


@register_model_architecture("infinite_former_lm", "infinite_former_lm_sort")
def infinite_former_lm_sort(args: Any) -> None:
    """The paper's sorting model (section 4.1)."""
    set_defaults(
        args,
        decoder_embed_dim=300,
        decoder_ffn_embed_dim=300,
        decoder_layers=3,
        decoder_attention_heads=6,
        dropout=0.1,
        stm_length=1024,
        ltm_basis=512,
        ltm_samples=512,
        compressive_length=512,
    )


@register_model_architecture("infinite_former_lm", "infinite_former_lm_wt103")
def infinite_former_lm_wt103(args: Any) -> None:
    """The paper's WikiText-103 model trained from scratch (section 4.2), with adaptive input and softmax.

    All bands are as wide as the model, as in Transformer-XL's: without its memory it has 151 million parameters.
    """
    set_defaults(
        args,
        decoder_embed_dim=410,
        decoder_ffn_embed_dim=2100,
        decoder_layers=16,
        decoder_attention_heads=10,
        dropout=0.1,
        adaptive_input=True,
        adaptive_softmax_cutoff="20000,40000,200000",
        adaptive_input_factor=1,
        adaptive_softmax_factor=1,
        stm_length=150,
        ltm_basis=150,
        ltm_samples=150,
        compressive_length=150,
        ltm_tau=0.5,
    )


@register_model_architecture("infinite_former_lm", "infinite_former_gpt2")
def infinite_former_gpt2(args: Any) -> None:
    """Of checkpoints of earlier versions, which have all settings; now ``infinite_former_pretrained``."""


def _register_variant(arch: str, memory: str, set_size: Optional[Callable[[Any], None]] = None) -> None:
    """Register an architecture that differs from one of the above only in its long-term memory."""

    def set_memory_and_size(args: Any) -> None:
        set_defaults(args, long_term_memory=memory)
        if set_size is not None:
            set_size(args)

    register_model_architecture("infinite_former_lm", arch)(set_memory_and_size)


# The models with which the ∞-former is compared, in the same sizes.
for _name, _memory in (("transformer_xl_lm", "none"), ("compressive_transformer_lm", "compressive")):
    _register_variant(_name, _memory)
    _register_variant(f"{_name}_tiny", _memory, infinite_former_lm_tiny)
    _register_variant(f"{_name}_sort", _memory, infinite_former_lm_sort)
    _register_variant(f"{_name}_wt103", _memory, infinite_former_lm_wt103)
