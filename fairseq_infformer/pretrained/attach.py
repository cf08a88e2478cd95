"""Give a pretrained language model a memory."""

import copy
from collections.abc import Iterable
from typing import Any, Optional

import torch
from transformers import PreTrainedModel

from fairseq_infformer.errors import InputError, one_line

from .attention import StreamAttention
from .config import InfformerConfig
from .memory import STARTS
from .model import SUPPORTED, InfformerForCausalLM


def attach(
    model: PreTrainedModel,
    memory: str = "continuous",
    *,
    layers: Optional[Iterable[int]] = None,
    segment: int = 256,
    window: Optional[int] = None,
    sinks: int = 4,
    bptt_segments: int = 1,
    start: str = "copied",
    **settings: Any,
) -> InfformerForCausalLM:
    """A causal language model of ``transformers`` with a memory, at first with the loss that it has without one.

    Args:
        model: a decoder with the attention of Llama (SmolLM2, Mistral, Qwen2, Qwen3) or of GPT-2. It becomes the
            ``base`` of the result; on its own it remains what it was.
        memory: the name of a registered memory, or "none" for the baseline: segments and window alone.
        layers, segment, window, sinks, bptt_segments: see ``InfformerConfig``.
        start: ``copied`` or ``silent``, see ``GatedMemory.start``.
        settings: of the memory, by the names in its dataclass, such as ``density="gibbs"``.

    Raises:
        InputError: if the model is not supported, or a value is wrong; the model is unchanged.
    """
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        raise InputError(f"model must be a causal language model of transformers with its output layer, got {name}")
    if model.config.is_encoder_decoder:
        raise InputError(f"{name} is not supported: it has an encoder; {SUPPORTED}")
    if any(isinstance(module, StreamAttention) for module in model.modules()):
        raise InputError(f"the {name} has a memory already; attach one to a model without")
    if start not in STARTS:
        raise InputError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
    config = InfformerConfig(
        copy.deepcopy(model.config),
        memory,
        memory_settings=settings,
        layers=layers,
        segment=segment,
        window=window,
        sinks=sinks,
        bptt_segments=bptt_segments,
    )
    attached = InfformerForCausalLM(config, model)
    try:
        for layer, gated in attached.memories.items():
            gated.start(start, attached.attentions[int(layer)].projections)
        _check_support(model, attached)
    except Exception as error:
        for part, module in list(model.named_modules()):
            if isinstance(module, StreamAttention):
                model.set_submodule(part, module.attention)
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is not supported ({one_line(error, with_type=True)}); {SUPPORTED}") from error
    return attached


@torch.no_grad()
def _check_support(model: PreTrainedModel, attached: InfformerForCausalLM) -> None:
    """InputError if the logits of a few tokens differ, where nothing is remembered, by more than rounding."""
    training = model.training
    attached.eval()
    tokens = torch.arange(min(attached.config.segment, 8), device=model.device)[None] % model.config.vocab_size
    expected, logits = (each(tokens, use_cache=False).logits for each in (model, attached))
    attached.train(training)
    difference = float((logits - expected).abs().max() / expected.abs().max())
    if not difference < torch.finfo(expected.dtype).eps ** 0.5:
        raise InputError(
            f"{type(model).__name__} is not supported: its projections have the names of Llama's or GPT-2's, but it "
            f"computes something else (logits differ by {difference:.1%} of the largest); {SUPPORTED}"
        )
