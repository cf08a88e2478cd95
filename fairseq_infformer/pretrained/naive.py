"""A pretrained model with a memory, segment by segment through the attention of ``transformers`` itself: what tests
compare the fast code with."""

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.memories import Read

from .model import InfformerForCausalLM

# The names of a layer's norms and feed-forward network: Llama's, GPT-2's.
PARTS = (("input_layernorm", "post_attention_layernorm", "mlp"), ("ln_1", "ln_2", "mlp"))


def logits(model: InfformerForCausalLM, tokens: Tensor) -> Tensor:
    """Logits (T, V) of one text (T,), without dropout."""
    config, backbone = model.config, model.base.base_model
    layers = list(backbone.layers if hasattr(backbone, "layers") else backbone.h)
    remembered = [tokens.new_zeros(1, 0, config.text_config.hidden_size).float() for _ in layers]  # all hidden states
    states = {layer: gated.memory.initial_state(1) for layer, gated in model.memories.items()}
    reports = dict.fromkeys(states)
    features = []
    for start in range(0, len(tokens), config.segment):
        segment = tokens[None, start : start + config.segment]
        x = model.get_input_embeddings()(segment)
        if hasattr(backbone, "wpe"):
            x = x + backbone.wpe.weight[: segment.shape[1]]
        for number, layer in enumerate(layers):
            norm, ffn_norm, ffn = next(
                [getattr(layer, name) for name in names] for names in PARTS if hasattr(layer, names[0])
            )
            hidden, key = norm(x), str(number)
            # What is not in the window any more is a sink or in the memory: in each commit, what a segment pushed out.
            left, before = (max(0, end - config.window) for end in (start, start - config.segment))
            sinks = min(left, config.sinks)
            near, read = torch.cat([remembered[number][:, :sinks], remembered[number][:, left:]], dim=1), Read()
            if key in states:
                memory = model.memories[key].memory
                if start:
                    new = remembered[number][:, max(before, sinks) : left]
                    states[key] = memory.write(states[key], new, report=reports[key])
                projections = model.attentions[number].projections
                query, lengths = projections.project(hidden)[0], torch.tensor([segment.shape[1]])
                read = memory.read(query, hidden, lengths, states[key], projections)
                reports[key] = read.report
            added = _attended(model, number, near, hidden)
            if read.extra is not None:
                extra = read.extra.hidden[:, read.extra.hidden.shape[1] - int(read.extra.lengths) :]
                seen = torch.cat([extra, near], dim=1)
                added = added + model.memories[key](_attended(model, number, seen, hidden) - added)
            if read.context is not None:
                added = added + model.memories[key](read.context)
            x = x + added
            x = x + ffn(ffn_norm(x))
            remembered[number] = torch.cat([remembered[number], hidden], dim=1)
        features.append(x)
    final = backbone.norm if hasattr(backbone, "norm") else backbone.ln_f
    return model.get_output_embeddings()(final(torch.cat(features, dim=1)))[0]


def _attended(model: InfformerForCausalLM, number: int, past: Tensor, hidden: Tensor) -> Tensor:
    """The attention of a layer for the last T of the past (1, P, C) and its own (1, T, C)."""
    joined = torch.cat([past, hidden], dim=1)
    length = joined.shape[1]
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    attention: nn.Module = model.attentions[number].attention
    rotary, more = getattr(model.base.base_model, "rotary_emb", None), {}
    if rotary is not None:  # only differences of positions count
        more["position_embeddings"] = rotary(joined, torch.arange(length)[None])
    return attention(joined, attention_mask=mask, **more)[0][:, past.shape[1] :]
