"""A pretrained model of ``transformers`` with a long-term memory, for fairseq: what ``pretrained.attach`` makes.

``transformers`` is imported when such a model is built, since fairseq imports this file whatever model is trained.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model, register_model_architecture
from omegaconf import OmegaConf, open_dict
from torch import Tensor
from torch.nn import functional as F

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.modules.memories import Figure, LongTermMemory, SettingError
from fairseq_infformer.modules.streams import Piece, StreamState
from fairseq_infformer.vocabulary_files import TOKENIZER, TokenizerDictionary, load_tokenizer

from .configuration import (
    MemoryConfig,
    check_types,
    layers_with_memory,
    memory_settings,
    named_as_typed,
    registered_memory,
    set_up_memory,
    with_defaults,
    with_memory_options,
)
from .streaming_decoder import StreamingDecoder
from .streaming_lm import StreamingLanguageModel

if TYPE_CHECKING:
    from fairseq_infformer.pretrained import InfformerForCausalLM
    from fairseq_infformer.pretrained.attention import LayerStream

MODEL, ARCH = "pretrained_with_memory", "infinite_former_pretrained"
CONFIG = "config.json"
# What ``pretrained.attach`` calls otherwise than the command line.
AS_TYPED = {"segment": "--tokens-per-sample", "window": "--stm-length", "sinks": "--attention-sinks"}


@with_memory_options(MODEL)
@dataclass
class PretrainedConfig(MemoryConfig):
    pretrained: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder of the model to start from, as transformers' save_pretrained writes it; not needed for "
            "evaluation, since a checkpoint has all the weights"
        },
    )
    base_config: Optional[str] = field(
        default=None,
        metadata={"help": "config.json of the model as one text; read from --pretrained, and kept in checkpoints"},
    )
    stm_length: Optional[int] = field(
        default=None,
        metadata={
            "help": "window: number of tokens before the segment that attention sees; 0 for none (default: "
            "--tokens-per-sample, and 0 where positions are learned)"
        },
    )
    attention_sinks: int = field(
        default=4,
        metadata={"help": "number of the first tokens of a text that attention still sees when they left the window"},
    )
    ltm_start: ChoiceEnum(["copied", "silent"]) = field(
        default="copied",
        metadata={
            "help": "how the memory starts: copied reads by each layer's own projections, behind a gate at zero; "
            "silent reads by random ones, and its output starts at zero"
        },
    )
    freeze_pretrained: bool = field(
        default=False, metadata={"help": "train the memory alone; the pretrained weights stay as they are"}
    )


@register_model(MODEL, dataclass=PretrainedConfig)
class PretrainedLM(StreamingLanguageModel):
    """A pretrained language model that reads streams with a window and a long-term memory."""

    decoder: "PretrainedDecoder"

    def __init__(self, cfg: PretrainedConfig, segment: int, decoder: "PretrainedDecoder") -> None:
        super().__init__(decoder)
        self.cfg, self.segment = cfg, segment

    @classmethod
    def build_model(cls, cfg: PretrainedConfig, task: Any) -> "PretrainedLM":
        """Build the model, with new weights, for segments of the task's length; InputError names a wrong setting."""
        return cls.build(with_defaults(cfg, PretrainedConfig), task.source_dictionary, task.cfg.tokens_per_sample)

    @classmethod
    def build(cls, cfg: PretrainedConfig, dictionary: Dictionary, segment: int) -> "PretrainedLM":
        """Build the model, with new weights, for segments of this length; InputError names a wrong setting."""
        check_types(cfg, PretrainedConfig)
        if cfg.freeze_pretrained and str(cfg.long_term_memory) == "none":
            raise InputError("--freeze-pretrained leaves nothing to train without a memory; leave it out")
        infinite_former_pretrained(cfg)  # which fairseq does not call for a configuration of Hydra
        if cfg.base_config is None:
            raise InputError("--pretrained is missing; give the folder of the model to start from")
        pretrained = import_pretrained()
        from transformers import AutoConfig

        with _explained(cfg):
            base = AutoConfig.for_model(**json.loads(cfg.base_config))
            memory = _memory(cfg, base.num_hidden_layers, segment)
            model = pretrained.InfformerForCausalLM(pretrained.InfformerConfig(base, **memory))
        return cls(cfg, segment, PretrainedDecoder(dictionary, _prepared(model, cfg)))

    def load_pretrained(self, cfg: Any) -> None:
        """Start from the weights of ``--pretrained``; InputError if they, or the tokenizer, do not match.

        ``cfg``, the settings that checkpoints get, has the configuration of the base then, so that scoring and resuming
        do without the folder. Of a configuration of Hydra, fairseq has built the model from a copy.
        """
        if OmegaConf.is_config(cfg):
            with open_dict(cfg):
                cfg.base_config = self.cfg.base_config
        if self.cfg.pretrained is None:
            return
        from transformers import AutoModelForCausalLM

        folder = Path(self.cfg.pretrained)
        if (folder / TOKENIZER).is_file():
            own = TokenizerDictionary.of(load_tokenizer(folder, f"--pretrained {folder}"))
            if own != self.decoder.dictionary:
                raise InputError(
                    f"the data's dict.txt was not made from {folder / TOKENIZER}; prepare the data with --level "
                    f"tokenizer --tokenizer {folder}"
                )
        with _explained(self.cfg):
            base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
            memory = _memory(self.cfg, base.config.num_hidden_layers, self.segment)
            settings = memory.pop("memory_settings")
            model = import_pretrained().attach(base, start=str(self.cfg.ltm_start), **memory, **settings)
        self.decoder.model = _prepared(model, self.cfg)


class PretrainedDecoder(StreamingDecoder):
    """The decoder of such a model.

    The special words of the dictionary are read as the token that the model's own texts start with: ``</s>``, which
    is read before a document, and pads, which nothing depends on.

    Args:
        dictionary: of the model's tokenizer. model: reads segments.
    """

    def __init__(self, dictionary: TokenizerDictionary, model: "InfformerForCausalLM") -> None:
        super().__init__(dictionary)
        self.model = model
        config = model.config.text_config
        if not isinstance(dictionary, TokenizerDictionary):
            raise InputError(
                "the data's dict.txt has other tokens than a pretrained model; prepare the data with --level tokenizer"
            )
        if dictionary.num_tokens > config.vocab_size:
            raise InputError(
                f"the data's dict.txt has {dictionary.num_tokens} tokens, but the model {config.vocab_size}; prepare "
                "the data with the model's own tokenizer"
            )
        self.sinks = model.config.sinks
        self.start = model.config.start_token
        if self.start is None:
            raise InputError(
                f"{CONFIG} of the model has neither bos_token_id nor eos_token_id, one of which it would read before "
                "a document; add one"
            )

    def output_layer(self, features: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(features)

    def initial_state(self, batch_size: int) -> tuple[StreamState, ...]:
        return self.kept(self.model.empty_streams(batch_size))

    def read_segment(
        self, before: tuple[StreamState, ...], segment: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[tuple[StreamState, ...], tuple[Tensor, list[dict[str, Figure]]]]:
        tokens, lengths, empty = segment
        # Keys, values and what memories show to attention come from the states again after each segment.
        streams = self.continued(tuple(state.reset(empty) for state in before))
        none = torch.zeros_like(lengths)
        # What is open is full, however short: DDP waits for the gradients of a write, even of one of nothing.
        piece = Piece(none, none, lengths, full=torch.ones_like(empty))
        features, streams = self.read_piece(piece, tokens, streams)
        after = self.kept(streams)
        memories = ((gated.memory, after[int(layer)].report) for layer, gated in self.model.memories.items())
        figures = [memory.figures(report) for memory, report in memories if report is not None]
        return after, (features, figures)

    def empty_streams(self, batch_size: int) -> tuple["LayerStream", ...]:
        return self.model.empty_streams(batch_size)

    def read_piece(
        self, piece: Piece, tokens: Tensor, streams: tuple["LayerStream", ...]
    ) -> tuple[Tensor, tuple["LayerStream", ...]]:
        tokens = tokens.masked_fill(tokens >= self.dictionary.num_tokens, self.start)
        return self.model.read_piece(piece, tokens, streams)

    def between_segments(self, streams: tuple["LayerStream", ...]) -> tuple[StreamState, ...]:
        return self.kept(streams)  # what is open is committed with the next segment, however short

    def kept(self, streams: tuple["LayerStream", ...]) -> tuple[StreamState, ...]:
        return tuple(stream.state for stream in streams)

    def continued(self, kept: tuple[StreamState, ...]) -> tuple["LayerStream", ...]:
        from fairseq_infformer.pretrained.attention import LayerStream

        return tuple(LayerStream(state, None, None) for state in kept)

    def max_positions(self) -> int:
        """The length of a segment."""
        return self.model.config.segment

    def get_normalized_probs(self, net_output: tuple, log_probs: bool, sample: Optional[dict] = None) -> Tensor:
        """Probabilities (..., V) of the dictionary's words: fairseq-eval-lm looks pads up too, which have none."""
        probs = super().get_normalized_probs(net_output, log_probs, sample)
        missing = max(0, len(self.dictionary) - probs.shape[-1])
        return F.pad(probs, (0, missing), value=-torch.inf if log_probs else 0.0)

    def long_term_memories(self) -> dict[int, LongTermMemory]:
        return {int(layer): gated.memory for layer, gated in self.model.memories.items()}

    def ends_of_texts(self) -> list[int]:
        ends = self.model.config.text_config.eos_token_id
        if ends is None:
            ends = self.start  # where it is generated, another text starts
        return ends if isinstance(ends, list) else [ends]

    def with_end(self, log_probs: Tensor) -> Tensor:
        words, ends = log_probs[:, : self.dictionary.num_tokens], self.ends_of_texts()
        others = words.new_full((len(words), len(self.dictionary) - words.shape[1]), -torch.inf)
        words = torch.cat([words, others], dim=1)
        words[:, self.dictionary.eos()] = words[:, ends].logsumexp(-1)
        words[:, ends] = -torch.inf
        return words

    def _apply(self, fn: Callable, recurse: bool = True) -> "PretrainedDecoder":
        """Cast or move, as for any module; the frequencies that positions are multiplied with stay in float32."""
        rotary = self.model.rotary
        exact = {} if rotary is None else dict(rotary.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            setattr(rotary, name, buffer.to(getattr(rotary, name).device))
        return self


@register_model_architecture(MODEL, ARCH)
def infinite_former_pretrained(args: Any) -> None:
    """A pretrained model, whose configuration is read from ``--pretrained``; InputError if there is none."""
    # This is also called with the settings in a checkpoint, which have it; the folder may no longer exist.
    if getattr(args, "pretrained", None) is not None and getattr(args, "base_config", None) is None:
        args.base_config = read_config(Path(args.pretrained))


def read_config(folder: Path) -> str:
    """The config.json of a pretrained model, in one line; InputError if the folder has none."""
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(
            f"--pretrained {folder} has no {CONFIG}; give the folder of a model as transformers' save_pretrained "
            "writes it"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        has_memory = config["model_type"] == "infformer"
    except (ValueError, KeyError, TypeError) as error:
        reason = one_line(error, with_type=True)
        raise InputError(f"{file} is not the {CONFIG} of a model ({reason}); download it again") from error
    if has_memory:
        raise InputError(f"--pretrained {folder} has a memory already; give the folder of a model without")
    # The precision of the file, by two names; fairseq starts from float32, whatever --fp16 and --bf16 do then.
    return json.dumps({name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")})


def import_pretrained() -> ModuleType:
    """``fairseq_infformer.pretrained``; InputError if it cannot be imported without transformers."""
    try:
        from fairseq_infformer import pretrained
    except ModuleNotFoundError as error:
        raise InputError(
            f"--arch {ARCH} needs transformers, which is not installed; run: pip install '.[hf]'"
        ) from error
    return pretrained


def _memory(cfg: PretrainedConfig, num_layers: int, segment: int) -> dict[str, Any]:
    """What ``InfformerConfig`` gets beside the model's configuration."""
    settings = {}
    if str(cfg.long_term_memory) != "none":
        values = memory_settings(cfg, registered_memory(cfg))
        settings = {setting.name: getattr(values, setting.name) for setting in dataclasses.fields(values)}
    return {
        "memory": str(cfg.long_term_memory),
        "memory_settings": settings,
        "layers": layers_with_memory(cfg, num_layers),
        "segment": segment,
        "window": cfg.stm_length,
        "sinks": cfg.attention_sinks,
    }


def _prepared(model: "InfformerForCausalLM", cfg: PretrainedConfig) -> "InfformerForCausalLM":
    """The model in float32, from which fairseq casts it, with its memories as an optimizer and ``cfg`` want them."""
    for gated in model.memories.values():
        set_up_memory(gated, gated.memory, cfg)
    model.base.requires_grad_(not cfg.freeze_pretrained)
    return model.float()


@contextmanager
def _explained(cfg: PretrainedConfig) -> Iterator[None]:
    """Report in one line what is wrong with a model or its memory, by the names of the options."""
    try:
        yield
    except InputError as error:
        if isinstance(error.__cause__, SettingError):
            raise named_as_typed(error.__cause__, registered_memory(cfg)) from error
        name, must, rest = str(error).partition(" must be ")
        for own, typed in AS_TYPED.items():
            name = re.sub(rf"\b{own}\b", typed, name)
        raise InputError(name + must + rest) from error
    except Exception as error:
        raise InputError(
            f"the model of --pretrained cannot be built ({one_line(error, with_type=True)}); give a folder that "
            "transformers' save_pretrained wrote"
        ) from error
