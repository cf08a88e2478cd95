"""The ∞-former language model for fairseq: configuration, decoder and model."""

import logging
import textwrap
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import (
    FairseqDecoder,
    FairseqLanguageModel,
    register_model,
)
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_only, tree_unflatten
from torch.utils.checkpoint import checkpoint

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules import (
    DENSITIES,
    ContinuousAttention,
    ContinuousLongTermMemory,
    ContinuousMemory,
    GaussianBasis,
    LongTermMemory,
)
from fairseq_infformer.modules.decoder_layer import (
    ACTIVATIONS,
    POSITION_ENCODINGS,
    InfiniteFormerLayer,
    LayerState,
    attention_mask,
)
from fairseq_infformer.modules.refit import CONTRACTIONS
from fairseq_infformer.modules.sampling import SAMPLINGS

from . import pretrained
from .memory_slot import MemorySlot, next_slot

logger = logging.getLogger(__name__)


@dataclass
class InfiniteFormerConfig(FairseqDataclass):
    decoder_embed_dim: int = field(default=512, metadata={"help": "width of the hidden states"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "width of the feed-forward networks"})
    decoder_layers: int = field(default=6, metadata={"help": "number of layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "number of attention heads"})
    activation_fn: ChoiceEnum(list(ACTIVATIONS)) = field(default="relu", metadata={"help": "feed-forward activation"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on embeddings and sublayer outputs"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the feed-forward networks"})
    untie_embeddings: bool = field(
        default=False, metadata={"help": "give the output layer weights of its own instead of the input embedding's"}
    )
    adaptive_input: bool = field(default=False, metadata={"help": "embed rare words with fewer dimensions"})
    adaptive_input_cutoff: Optional[str] = field(
        default=None,
        metadata={"help": "where the bands of the adaptive input start, e.g. 20000,60000 (default: the softmax's)"},
    )
    adaptive_input_factor: float = field(default=4, metadata={"help": "each band is this much narrower"})
    adaptive_softmax_cutoff: Optional[str] = field(
        default=None, metadata={"help": "use the adaptive softmax, with bands that start at, e.g., 20000,60000"}
    )
    adaptive_softmax_factor: float = field(default=4, metadata={"help": "each band is this much narrower"})
    adaptive_softmax_dropout: float = field(default=0, metadata={"help": "dropout in the adaptive softmax's bands"})
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "save memory: recompute each layer's activations in the backward pass"}
    )
    stm_length: int = field(
        default=512, metadata={"help": "short-term memory: past hidden states each layer attends to; 0 for none"}
    )
    position_encoding: ChoiceEnum(list(POSITION_ENCODINGS)) = field(
        default="xl",
        metadata={"help": "in ordinary attention: xl (Transformer-XL's), rope (rotary) or alibi (linear biases)"},
    )
    long_term_memory: ChoiceEnum(["continuous", "none"]) = field(
        default="continuous", metadata={"help": "the ∞-former's memory, or none: a Transformer-XL"}
    )
    ltm_layers: str = field(
        default="all", metadata={"help": "layers with a long-term memory: all, or numbers from 0, e.g. 2,3"}
    )
    ltm_basis: int = field(default=512, metadata={"help": "N, number of basis functions"})
    ltm_widths: str = field(default="0.01,0.05", metadata={"help": "widths of the basis functions on [0, 1]"})
    ltm_samples: int = field(default=512, metadata={"help": "M, samples of the old signal that an update refits"})
    ltm_ridge: float = field(default=1.0, metadata={"help": "λ, penalty of the ridge regression"})
    ltm_contraction: ChoiceEnum(list(CONTRACTIONS)) = field(
        default="proportional",
        metadata={"help": "fixed (the paper's): the past gets [0, τ]; proportional: every token an equal share"},
    )
    ltm_tau: float = field(default=0.75, metadata={"help": "τ of the fixed contraction"})
    ltm_sampling: ChoiceEnum(list(SAMPLINGS)) = field(
        default="uniform",
        metadata={
            "help": "where an update samples the old signal: uniform, or where the last segment's attention looked: "
            "sticky (random draws, the paper's sticky memories) or sticky-quantile (without randomness)"
        },
    )
    ltm_density: str = field(
        default="renormalized-gaussian",
        metadata={"help": f"what a query lays over the memory: {', '.join(DENSITIES)} (gaussian is the paper's)"},
    )
    ltm_min_sigma: float = field(
        default=-1, metadata={"help": "floor of the density's σ; -1: the narrowest width; 0: none, the paper's form"}
    )
    ltm_flat_start: bool = field(
        default=False,
        metadata={"help": "start all heads with the paper's flat read instead of heads that tile the memory"},
    )
    ltm_ablation: ChoiceEnum(["none", "zero", "swap"]) = field(
        default="none",
        metadata={"help": "for evaluation: read zeros instead of the memory, or the memory of the process's next row"},
    )


class InfiniteFormerDecoder(FairseqDecoder):
    """Embeds a segment, passes it through the layers, and keeps their memory for the next one.

    The memory of training and that of evaluation are kept apart. They are committed once per segment: a forward
    pass that comes with the number of the segment it has just seen, or of the first one of the update, starts from
    the memory before it.
    """

    def __init__(
        self,
        cfg: InfiniteFormerConfig,
        dictionary: Dictionary,
        embed_tokens: nn.Module,
        layers: list[InfiniteFormerLayer],
    ) -> None:
        super().__init__(dictionary)
        self.cfg = cfg
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if cfg.adaptive_input else cfg.decoder_embed_dim**0.5
        self.layers = nn.ModuleList(layers)
        self.final_norm = nn.LayerNorm(cfg.decoder_embed_dim)
        self.adaptive_softmax: Optional[AdaptiveSoftmax] = None
        self.output_projection: Optional[nn.Linear] = None
        if cfg.adaptive_softmax_cutoff is not None:
            tied = cfg.adaptive_input and not cfg.untie_embeddings
            self.adaptive_softmax = AdaptiveSoftmax(
                len(dictionary),
                cfg.decoder_embed_dim,
                _bands(
                    *(cfg.adaptive_softmax_cutoff, len(dictionary), "--adaptive-softmax-cutoff"),
                    *(cfg.decoder_embed_dim, cfg.adaptive_softmax_factor),
                ),
                cfg.adaptive_softmax_dropout,
                cfg.adaptive_softmax_factor,
                embed_tokens if tied else None,
                tie_proj=tied,
            )
        else:
            self.output_projection = nn.Linear(cfg.decoder_embed_dim, len(dictionary), bias=False)
            if cfg.untie_embeddings:
                nn.init.normal_(self.output_projection.weight, std=cfg.decoder_embed_dim**-0.5)
            else:
                self.output_projection.weight = embed_tokens.weight
        self.slots: dict[bool, MemorySlot] = {}  # by self.training
        self.num_updates: Optional[int] = None
        # A checkpoint used with another dictionary of the same size would be scored without a word.
        self.register_buffer("dictionary_checksum", torch.tensor(_checksum(dictionary), dtype=torch.int64))

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        segment: Optional[int] = None,
        lengths: Optional[np.ndarray] = None,
        reset: Optional[np.ndarray] = None,
        **unused: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Score one segment of each stream.

        Args:
            src_tokens: (B, T). src_lengths: not used.
            segment: the segment's number in its stream; the memory goes on from the segment before.
            lengths: (B,) int, on the host: how many of the T tokens of each row are text, from the left; None: all.
            reset: (B,) bool, on the host: the rows that start with an empty memory; None: all of segment 0.

        Returns:
            logits (B, T, V), or features (B, T, C) under the adaptive softmax, and a dict: ``attn`` (None) and
            ``densities``, what each layer's long-term memory says of its read.
        """
        if segment is None:
            raise InputError(
                "the batch carries no stream information, so its memory cannot be right: give "
                "--task streaming_language_modeling"
            )
        rows, width = src_tokens.shape
        lengths = np.full(rows, width) if lengths is None else lengths
        reset = np.full(rows, segment == 0) if reset is None else reset
        features, densities = self.extract_features(src_tokens, segment, lengths, reset)
        if self.output_projection is not None:
            features = self.output_projection(features)
        return features, {"attn": None, "densities": densities}

    def extract_features(
        self, src_tokens: Tensor, segment: int, lengths: np.ndarray, reset: np.ndarray
    ) -> tuple[Tensor, list[Any]]:
        """Hidden states (B, T, C) after the last layer, and what the long-term memories say of their reads."""
        in_row, empty = torch.from_numpy(lengths), torch.from_numpy(reset)
        x = F.dropout(self._embed(src_tokens) * self.embed_scale, self.cfg.dropout, self.training)
        before = self._memory_before(segment, empty, x)
        x, densities, after = self._through_layers(x, in_row, empty, before)
        after = tree_map_only(Tensor, torch.detach, after)
        update = self.num_updates if self.training else None
        self.slots[self.training] = next_slot(self.slots.get(self.training), segment, before, after, update)
        return self.final_norm(x), densities

    def _through_layers(
        self, x: Tensor, in_row: Tensor, empty: Tensor, before: tuple[LayerState, ...]
    ) -> tuple[Tensor, list[Any], tuple[LayerState, ...]]:
        after, densities, mask = [], [], None
        for layer, state in zip(self.layers, before):
            state = self._ablate(layer.advance(state, empty))
            if mask is None:  # all layers have seen the same text
                mask = attention_mask(state.recent, x.shape[1])
            if self.cfg.checkpoint_activations and torch.is_grad_enabled():
                x, state = checkpoint(layer, x, in_row, state, mask, use_reentrant=False)
            else:
                x, state = layer(x, in_row, state, mask)
            densities += [state.looked] if state.looked is not None else []
            after.append(state)
        return x, densities, tuple(after)

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        if self.cfg.adaptive_input:  # DDP waits for the gradients of a band, whether the batch has a word of it or not
            x = x + sum(band(tokens[:0]).sum() for band in self.embed_tokens.embeddings)
        return x

    def set_num_updates(self, num_updates: int) -> None:
        """fairseq tells before every forward pass of training which update the segment belongs to."""
        self.num_updates = num_updates

    def _memory_before(self, segment: int, reset: Tensor, x: Tensor) -> tuple[LayerState, ...]:
        slot = self.slots.get(self.training)
        if slot is None or bool(reset.all()):
            if not bool(reset.all()):
                logger.warning(f"nothing is remembered of the text before segment {segment}: the memory starts empty")
            return tuple(layer.initial_state(x) for layer in self.layers)
        states = slot.start_of(segment)
        if states is None:
            logger.warning(
                f"the memory ends with segment {slot.segment} and the batch is segment {segment}: what lies between "
                "was not read, so the memory starts empty"
            )
            return tuple(layer.initial_state(x) for layer in self.layers)
        rows = states[0].recent.hidden.shape[0]
        if rows != x.shape[0]:
            raise InputError(
                f"the memory has {rows} rows and the batch {x.shape[0]}: a stream cannot go on with another batch size"
            )
        return states

    def memory_state(self) -> dict[str, Tensor]:
        """What training remembers after its last segment: tensors by name, their first axis the rows of the batch."""
        slot = self.slots.get(True)
        places = [] if slot is None else tree_flatten_with_path(slot.after)[0]
        return {keystr(path): value for path, value in places if value is not None}

    @torch.no_grad()
    def load_memory_state(self, memory: dict[str, Tensor]) -> None:
        """Let training go on from what ``memory_state`` returned; InputError if another kind of model wrote it."""
        x = self.final_norm.weight.new_zeros(1, 1, self.cfg.decoder_embed_dim)
        one, new = torch.ones(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
        # A segment of one place shows how the states are built, whatever memory the layers have.
        *_, like = self._through_layers(x, one, new, tuple(layer.initial_state(x) for layer in self.layers))
        places, structure = tree_flatten_with_path(like)
        known = {keystr(path) for path, value in places if value is not None}
        if known != set(memory):
            raise InputError(
                f"checkpoint and model differ in what they remember ({', '.join(sorted(known ^ set(memory)))}): resume "
                "with the settings of the run that wrote it, or give --reset-dataloader to begin the text anew"
            )
        leaves = [None if value is None else memory[keystr(path)].to(value) for path, value in places]
        after = tree_unflatten(leaves, structure)
        self.slots[True] = MemorySlot(None, after)

    def _ablate(self, state: LayerState) -> LayerState:
        if self.cfg.ltm_ablation == "zero":
            return state._replace(long_term=None)
        if self.cfg.ltm_ablation == "swap" and state.long_term is not None:
            rows = state.recent.hidden.shape[0]
            if rows == 1:
                raise InputError("swap reads the memory of another row of the batch: give --batch-size 2 or more")
            return state._replace(long_term=state.long_term.reorder(torch.arange(rows).roll(1)))
        return state

    def max_positions(self) -> int:
        """A segment may have any length: positions are relative."""
        return 2**31 - 1


@register_model("infinite_former_lm", dataclass=InfiniteFormerConfig)
class InfiniteFormerLM(FairseqLanguageModel):
    """∞-former language model; with ``--long-term-memory none`` a Transformer-XL."""

    @classmethod
    def build_model(cls, cfg: InfiniteFormerConfig, task: Any) -> "InfiniteFormerLM":
        """Build the model for ``task.source_dictionary``; InputError names a setting that cannot be."""
        return cls.build(cfg, task.source_dictionary)

    @classmethod
    def build(cls, cfg: InfiniteFormerConfig, dictionary: Dictionary) -> "InfiniteFormerLM":
        """Build the model for a dictionary; InputError names a setting that cannot be."""
        try:
            return cls(build_decoder(cfg, dictionary))
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error)) from error
        except (ArithmeticError, RuntimeError) as error:  # of 0 heads, or a negative width
            raise InputError(f"no model can be built with these settings: {str(error).splitlines()[0]}") from error

    @classmethod
    def from_pretrained(cls, directory: str | Path, **settings: Any) -> "InfiniteFormerLM":
        """Read what ``infformer-export`` wrote, and run nothing of it: no file is a pickle.

        Args:
            directory: has model.safetensors, config.json and dict.txt.
            settings: of InfiniteFormerConfig, to be used in place of the saved ones, such as ``stm_length``.

        Returns:
            the model in float32, on the CPU and in evaluation mode; its dictionary is ``model.decoder.dictionary``.
            Call it with a text's segments in order, ``model(tokens, segment=0)`` and so on, and its output with
            ``model.get_normalized_probs(out, log_probs=True)``, (B, T, V).
        """
        folder = Path(directory)
        config = pretrained.read_config(folder)
        pretrained.check_files(folder, config["sha256"])
        source = folder / pretrained.CONFIG
        pretrained.configuration(InfiniteFormerConfig, settings, "from_pretrained")
        cfg = pretrained.configuration(InfiniteFormerConfig, config["model"] | settings, source)
        model = cls.build(cfg, pretrained.read_dictionary(folder))
        pretrained.read_weights(folder, model)
        return model.eval()

    def memory_state(self) -> dict[str, Tensor]:
        """What training remembers after its last segment, see ``InfiniteFormerDecoder.memory_state``."""
        return self.decoder.memory_state()

    def load_memory_state(self, memory: dict[str, Tensor]) -> None:
        """Let training go on from what ``memory_state`` returned."""
        self.decoder.load_memory_state(memory)

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        check_dictionary(state_dict, self.decoder.dictionary)
        try:
            return super().load_state_dict(state_dict, strict, model_cfg, args)
        except ValueError as error:  # the basis differs
            raise InputError(str(error)) from error
        except Exception as error:  # PyTorch lists what differs line by line; fairseq's adaptive softmax says little
            reason = textwrap.shorten(str(error).split("\n", 1)[-1], 160, placeholder=" …")
            raise InputError(
                f"the checkpoint is of another model ({reason}); give the architecture and sizes it was trained with"
            ) from error


def _checksum(dictionary: Dictionary) -> int:
    return zlib.crc32("\n".join(dictionary.symbols).encode())


def check_dictionary(state_dict: dict[str, Tensor], dictionary: Dictionary) -> None:
    """InputError if a model's state was trained with another dictionary."""
    saved = state_dict.get("decoder.dictionary_checksum")
    if saved is not None and int(saved) != _checksum(dictionary):
        raise InputError(
            f"the data's dict.txt ({len(dictionary)} types) is not the one that the checkpoint was trained with; "
            "binarise the data with the training corpus' dictionary (prepare.sh --dict)"
        )


def _numbers(text: str, kind: type, option: str) -> list:
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"{option} takes numbers with commas between, got {text!r}") from None


def _bands(text: str, num_types: int, option: str, embed_dim: int, factor: float) -> list[int]:
    cutoffs = _numbers(text, int, option)
    if not 1 <= factor <= embed_dim ** (1 / len(cutoffs)):
        raise InputError(
            f"{option.replace('cutoff', 'factor')} {factor:g} leaves no width of {embed_dim} to band {len(cutoffs)}; "
            f"give one in 1..{embed_dim ** (1 / len(cutoffs)):.3g}"
        )
    if not all(low < high for low, high in zip([0, *cutoffs], [*cutoffs, num_types])):
        raise InputError(f"{option} must rise and stay below the {num_types} types of the dictionary, got {text}")
    return cutoffs


def build_decoder(cfg: InfiniteFormerConfig, dictionary: Dictionary) -> InfiniteFormerDecoder:
    """The decoder that ``cfg`` describes."""
    for name in ("decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_layers"):
        if getattr(cfg, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(cfg, name)}")
    for name in ("dropout", "attention_dropout", "activation_dropout", "adaptive_softmax_dropout"):
        if not 0 <= getattr(cfg, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must lie in [0, 1), got {getattr(cfg, name)}")
    if cfg.stm_length < 0:
        raise InputError(f"--stm-length must be 0 or more, got {cfg.stm_length}")
    if cfg.adaptive_input:
        cutoff = cfg.adaptive_input_cutoff or cfg.adaptive_softmax_cutoff
        if cutoff is None:
            raise InputError("--adaptive-input needs --adaptive-input-cutoff or --adaptive-softmax-cutoff")
        if not cfg.untie_embeddings and cutoff != cfg.adaptive_softmax_cutoff:
            raise InputError(
                f"tied adaptive input and softmax need the same bands, got {cutoff} and {cfg.adaptive_softmax_cutoff}: "
                "drop --adaptive-input-cutoff or give --untie-embeddings"
            )
        embed_tokens = AdaptiveInput(
            len(dictionary),
            dictionary.pad(),
            cfg.decoder_embed_dim,
            cfg.adaptive_input_factor,
            cfg.decoder_embed_dim,
            _bands(
                *(cutoff, len(dictionary), "--adaptive-input-cutoff"),
                *(cfg.decoder_embed_dim, cfg.adaptive_input_factor),
            ),
        )
    else:
        embed_tokens = nn.Embedding(len(dictionary), cfg.decoder_embed_dim, dictionary.pad())
        nn.init.normal_(embed_tokens.weight, std=cfg.decoder_embed_dim**-0.5)
        nn.init.zeros_(embed_tokens.weight[dictionary.pad()])
    remembering = _layers_with_memory(cfg)
    layers = [
        InfiniteFormerLayer(
            cfg.decoder_embed_dim,
            cfg.decoder_attention_heads,
            cfg.decoder_ffn_embed_dim,
            cfg.stm_length,
            build_long_term_memory(cfg, number) if number in remembering else None,
            cfg.dropout,
            cfg.attention_dropout,
            cfg.activation_dropout,
            str(cfg.activation_fn),
            str(cfg.position_encoding),
        )
        for number in range(cfg.decoder_layers)
    ]
    return InfiniteFormerDecoder(cfg, dictionary, embed_tokens, layers)


def _layers_with_memory(cfg: InfiniteFormerConfig) -> set[int]:
    if str(cfg.long_term_memory) == "none":
        return set()
    if cfg.ltm_layers == "all":
        return set(range(cfg.decoder_layers))
    chosen = set(_numbers(cfg.ltm_layers, int, "--ltm-layers"))
    if not chosen <= set(range(cfg.decoder_layers)):
        raise InputError(f"--ltm-layers must lie in 0..{cfg.decoder_layers - 1}, got {cfg.ltm_layers}")
    return chosen


def build_long_term_memory(cfg: InfiniteFormerConfig, layer: int) -> LongTermMemory:
    """The long-term memory of the layer of this number."""
    if cfg.ltm_min_sigma < 0 and cfg.ltm_min_sigma != -1:
        raise InputError(f"--ltm-min-sigma must be 0 or more, or -1 for the narrowest width, got {cfg.ltm_min_sigma}")
    basis = GaussianBasis(cfg.ltm_basis, _numbers(cfg.ltm_widths, float, "--ltm-widths"))
    memory = ContinuousMemory(
        *(basis, cfg.ltm_samples, cfg.ltm_ridge, str(cfg.ltm_contraction), cfg.ltm_tau, str(cfg.ltm_sampling)),
        seed=layer,
    )
    attention = ContinuousAttention(
        cfg.decoder_embed_dim,
        cfg.decoder_attention_heads,
        basis,
        cfg.ltm_density,
        min_width=None if cfg.ltm_min_sigma < 0 else cfg.ltm_min_sigma,
        head_start=not cfg.ltm_flat_start,
    )
    return ContinuousLongTermMemory(memory, attention)
