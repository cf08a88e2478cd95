"""A pretrained language model that reads its text in segments, with a window and a long-term memory in its layers."""

from typing import Any, ClassVar, Optional

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.padding import padding_mask
from fairseq_infformer.modules.replay import replay, unroll
from fairseq_infformer.modules.streams import Piece, StreamState, pieces

from .attention import LayerStream, Passage, Rotary, StreamAttention
from .cache import StreamCache
from .config import InfformerConfig
from .memory import GatedMemory
from .projections import FAMILIES, Projections, projections_of

SUPPORTED = "give a model such as Llama, Mistral, Qwen or GPT-2"
NO_TARGET = -100  # the label of what is not scored, in all of ``transformers``


class InfformerForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model of ``transformers`` whose layers see a window, and have a memory of what left it.

    Args:
        config: of the base and of the memory.
        base: the model, whose attentions are replaced; None: a new one, as ``config.text_config`` says.

    Raises:
        InputError: if the base is not supported, or the configuration has a wrong value.
    """

    config_class = InfformerConfig
    supports_gradient_checkpointing = True
    # Positions of basis functions are finer than half precision.
    _keep_in_fp32_modules_strict: ClassVar = ["basis"]

    def __init__(self, config: InfformerConfig, base: Optional[PreTrainedModel] = None) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.base = AutoModelForCausalLM.from_config(config.text_config) if base is None else base
        self.generation_config = self.base.generation_config
        config.settle(learned_positions=self.rotary is None)
        projections = _projections(self.base)
        self.memories = _memories(config, list(projections.values()))
        self._keys_to_ignore_on_save = _second_names(self.memories, "memories.")
        # What no file holds, and loading leaves empty.
        self._unsaved = {
            module: {name: getattr(module, name) for name in module._non_persistent_buffers_set}
            for module in self.memories.modules()
        }
        for layer, (name, own) in enumerate(projections.items()):
            self.base.set_submodule(name, StreamAttention(own.attention, own, layer))
        if base is not None:
            self.memories.to(next(base.parameters()))
            for module in self.modules():  # lest ``post_init`` start trained weights anew
                module._is_hf_initialized = True
        self.post_init()

    @property
    def attentions(self) -> list[StreamAttention]:
        """Those of the layers, in their order."""
        return [module for module in self.base.modules() if isinstance(module, StreamAttention)]

    def _init_weights(self, module: nn.Module) -> None:
        """Memories start themselves; only what loading has left empty is filled in again."""
        for name, buffer in self._unsaved.get(module, {}).items():
            getattr(module, name).copy_(buffer)

    @can_return_tuple
    def forward(
        self,
        input_ids: Optional[Tensor] = None,
        attention_mask: Optional[Tensor] = None,
        *,
        cache: Optional[Cache] = None,
        labels: Optional[Tensor] = None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Read text of any length, segment by segment.

        Args:
            input_ids: (B, T). attention_mask: (B, T), or longer with what a cache has read: 0 at pads, wherever they
                are. Pads enter neither window nor memory; their logits mean nothing.
            cache: a ``StreamCache``, from which the streams continue, and which then has them; None: they start empty.
            labels: (B, T), -100 where nothing is scored; the loss is their mean cross-entropy. In training its gradient
                has that of the memories' own terms (``LongTermMemory.figures``) in it, its value has not.
            use_cache: return a cache.
            logits_to_keep: for how many of the last columns, or for which, there are to be logits; 0: all.
            kwargs: of the loss, such as ``num_items_in_batch``.

        Raises:
            InputError: if there is no text, or mask or cache do not fit it.
        """
        cache = kwargs.pop("past_key_values", cache)  # the name until transformers 5.23
        if cache is not None and not isinstance(cache, StreamCache):
            raise InputError(f"cache must be a StreamCache, got a {type(cache).__name__}; leave it out to start empty")
        if input_ids is None:
            raise InputError("the input has no input_ids; embeddings in their place (inputs_embeds) are not supported")
        rows, columns = input_ids.shape
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        text = attention_mask[:, -columns:].bool().cpu()
        if text.shape != input_ids.shape:
            raise InputError(f"attention_mask must be ({rows}, {columns}) or longer, got {tuple(attention_mask.shape)}")
        if not bool(text.any()):
            raise InputError("the input has no text: give input_ids with an attention_mask that is not all zeros")
        streams = self.empty_streams(rows) if cache is None or cache.streams is None else cache.streams
        if (known := len(streams[0].state.window.lengths)) != rows:
            raise InputError(
                f"the cache has {known} rows, but the input has {rows}; give it the rows it has read before"
            )
        features, penalty, streams = self._read(input_ids, text, streams)
        if use_cache and cache is None:
            cache = StreamCache()
        if cache is not None:
            cache.advance(streams, columns)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.base.get_output_embeddings()(features[:, kept])
        loss = None if labels is None else self._loss(logits, labels, text, penalty, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache)

    def _read(
        self, input_ids: Tensor, text: Tensor, streams: tuple[LayerStream, ...]
    ) -> tuple[Tensor, Tensor, tuple[LayerStream, ...]]:
        """Features (B, T, C), the memories' terms of the loss as a mean, and the streams after the text (B, T), through
        which no gradient goes."""
        # Rows without their pads: each is cut into segments as if it were alone.
        order = text.logical_not().int().argsort(dim=1, stable=True)
        reads = []
        for piece in pieces(text.sum(1), streams[0].state.segment.lengths, self.config.segment):
            tokens = piece.first[:, None] + torch.arange(int(piece.lengths.max()))
            columns = order.gather(1, tokens.clamp(max=order.shape[1] - 1))
            reads.append((piece, columns, input_ids.gather(1, columns.to(input_ids.device))))
        run = replay if self.gradient_checkpointing and self.training else unroll
        outputs = []
        for first in range(0, len(reads), self.config.bptt_segments):
            several = [(piece, tokens) for piece, _, tokens in reads[first : first + self.config.bptt_segments]]
            streams, more = run(self._step, streams, several)
            streams = tuple(stream.detach() for stream in streams)
            outputs += more
        features, penalties = zip(*outputs)
        features = _in_columns(torch.cat(features, dim=1), [(piece, columns) for piece, columns, _ in reads], order)
        penalty = torch.stack(penalties).sum() / (int(text.sum()) * max(1, len(self.memories)))
        return features, penalty, streams

    def _step(
        self, streams: tuple[LayerStream, ...], read: tuple[Piece, Tensor]
    ) -> tuple[tuple[LayerStream, ...], tuple[Tensor, Tensor]]:
        """The streams after a piece with these tokens (B, n); its features (B, n, C) and terms of the loss."""
        features, streams = self.read_piece(*read, streams)
        penalty = features.new_zeros(())
        if self.training:
            for layer, gated in self.memories.items():
                if (report := streams[int(layer)].state.report) is not None:
                    penalty = penalty + gated.penalty(report)
        return streams, (features, penalty)

    def read_piece(
        self, piece: Piece, tokens: Tensor, streams: tuple[LayerStream, ...]
    ) -> tuple[Tensor, tuple[LayerStream, ...]]:
        """Features (B, n, C) of a piece with these tokens (B, n), which the output embeddings take, and the streams
        after it."""
        memories = {int(layer): memory for layer, memory in self.memories.items()}
        passage = Passage(piece, streams, memories, self.rotary)
        positions = piece.start[:, None] + torch.arange(tokens.shape[1])
        positions = positions.clamp(max=self.config.segment - 1)  # those of pads may be beyond
        positions = positions + self.config.sinks + self.config.window
        features = self.base.base_model(
            input_ids=tokens, position_ids=positions.to(tokens.device), use_cache=False, passage=passage
        )[0]
        if len(passage.after) < len(streams):
            raise InputError(
                f"{type(self.base).__name__} is not supported: its layers pass nothing on to attention; {SUPPORTED}"
            )
        return features, tuple(passage.after[layer] for layer in range(len(streams)))

    def empty_streams(self, batch_size: int) -> tuple[LayerStream, ...]:
        """Those of each layer before any text."""
        like = self.get_input_embeddings().weight
        streams = []
        for layer in range(self.config.text_config.num_hidden_layers):
            memory = self.memories[str(layer)].memory if str(layer) in self.memories else None
            state = StreamState.empty(batch_size, self.config.sinks, self.config.window, like, memory)
            streams.append(LayerStream(state, None, None))
        return tuple(streams)

    def _loss(self, logits: Tensor, labels: Tensor, text: Tensor, penalty: Tensor, **kwargs: Any) -> Tensor:
        # Nothing is predicted from a pad.
        from_pad = torch.cat([torch.zeros_like(text[:, :1]), ~text[:, :-1]], dim=1)
        labels = labels.masked_fill(from_pad.to(labels.device), NO_TARGET)
        loss = self.loss_function(logits, labels, self.config.text_config.vocab_size, **kwargs)
        if (total := kwargs.get("num_items_in_batch")) is not None:
            penalty = penalty * (labels[:, 1:] != NO_TARGET).sum() / total
        return loss + (penalty - penalty.detach())

    @property
    def rotary(self) -> Optional[Rotary]:
        """What gives cosine and sine of positions; None if positions are in the hidden states."""
        return getattr(self.base.base_model, "rotary_emb", None)

    def _set_gradient_checkpointing(self, enable: bool = True, **unused: Any) -> None:
        """Keep the activations of one segment at a time, whatever the base would do."""
        self.gradient_checkpointing = enable

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.base.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.base.set_output_embeddings(new_embeddings)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """False: ``forward`` makes the cache."""
        return False


def _projections(base: PreTrainedModel) -> dict[str, Projections]:
    """The projections of the attention of each layer, by its name in the base; InputError if it is not supported."""
    named = ((name, projections_of(module)) for name, module in base.named_modules())
    found = {name: projections for name, projections in named if projections is not None}
    if len(found) != base.config.num_hidden_layers:
        names = " or ".join(", ".join(family.names) for family in FAMILIES)
        raise InputError(
            f"{type(base).__name__} is not supported: its {base.config.num_hidden_layers} layers have {len(found)} "
            f"attentions with the projections {names}; {SUPPORTED}"
        )
    return found


def _memories(config: InfformerConfig, projections: list[Projections]) -> nn.ModuleDict:
    """The memories, by the numbers of their layers; InputError names a wrong setting."""
    memories = nn.ModuleDict()
    with torch.device("cpu"):  # ``from_pretrained`` builds on a device without data, which a basis needs
        for layer in config.layers:
            memory = config.build_memory(layer, projections[layer].num_heads, projections[layer].head_dim)
            memories[str(layer)] = GatedMemory(memory, config.text_config.hidden_size)
    return memories


def _second_names(module: nn.Module, prefix: str) -> list[str]:
    """The names in a module's state of tensors that have an earlier name too, as a basis that is written and read."""
    named = module.state_dict(prefix=prefix, keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return [name for name, tensor in named.items() if first[id(tensor)] != name]


def _in_columns(features: Tensor, reads: list[tuple[Piece, Tensor]], order: Tensor) -> Tensor:
    """Features (B, N, C) of all pieces, one after the other, at the columns (B, n) of their tokens: (B, T, C)."""
    source, offset = torch.zeros_like(order), 0
    for piece, columns in reads:
        width = columns.shape[1]
        rows, tokens = padding_mask(piece.lengths, width).logical_not().nonzero(as_tuple=True)
        source[rows, columns[rows, tokens]] = offset + tokens
        offset += width
    return features.gather(1, source.to(features.device)[:, :, None].expand(-1, -1, features.shape[2]))
