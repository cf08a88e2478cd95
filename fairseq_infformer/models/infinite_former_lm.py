"""The ∞-former language model for fairseq, and how it is put together from its settings."""

import textwrap
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary
from fairseq.models import FairseqLanguageModel, register_model
from fairseq.modules import AdaptiveInput
from hydra.core.config_store import ConfigStore
from torch import Tensor, nn

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.layers import InfiniteFormerLayer
from fairseq_infformer.modules.memories import LISTENERS, MEMORIES, LongTermMemory, SettingError, ablate

from . import gpt2, pretrained
from .configuration import InfiniteFormerConfig, bands, check_settings, memory_settings, numbers, spelt, with_defaults
from .decoder import InfiniteFormerDecoder, dictionary_checksum
from .memory_format import MEMORY_FORMAT


@register_model("infinite_former_lm", dataclass=InfiniteFormerConfig)
class InfiniteFormerLM(FairseqLanguageModel):
    """∞-former language model; by ``--long-term-memory`` also a Compressive Transformer or a Transformer-XL."""

    @classmethod
    def build_model(cls, cfg: InfiniteFormerConfig, task: Any) -> "InfiniteFormerLM":
        """Build the model for ``task.source_dictionary``; InputError names a setting that cannot be."""
        model = cls.build(with_defaults(cfg), task.source_dictionary)
        model.decoder.check_length(getattr(task.cfg, "tokens_per_sample", 0))  # none: what comes has no streams either
        return model

    @classmethod
    def build(cls, cfg: InfiniteFormerConfig, dictionary: Dictionary) -> "InfiniteFormerLM":
        """Build the model for a dictionary; InputError names a setting that cannot be."""
        check_settings(cfg)
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

    def load_pretrained(self) -> None:
        """Start from the weights that ``--gpt2`` names, if it does; InputError if they do not fit."""
        if self.decoder.cfg.gpt2 is not None:
            gpt2.load(Path(self.decoder.cfg.gpt2), self.decoder)

    memory_format = MEMORY_FORMAT

    def memory_state(self) -> dict[str, Tensor]:
        """What training remembers after its last segment, see ``InfiniteFormerDecoder.memory_state``."""
        return self.decoder.memory_state()

    def load_memory_state(self, memory: dict[str, Tensor], number: int = MEMORY_FORMAT) -> None:
        """Let training continue from what ``memory_state`` returned, in the format of this number."""
        self.decoder.load_memory_state(memory, number)

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


def check_dictionary(state_dict: dict[str, Tensor], dictionary: Dictionary) -> None:
    """InputError if a model's state was trained with another dictionary."""
    saved = state_dict.get("decoder.dictionary_checksum")
    if saved is not None and int(saved) != dictionary_checksum(dictionary):
        raise InputError(
            f"the data's dict.txt ({len(dictionary)} types) is not the one that the checkpoint was trained with; "
            "binarise the data with the training corpus' dictionary (prepare.sh --dict)"
        )


def build_decoder(cfg: InfiniteFormerConfig, dictionary: Dictionary) -> InfiniteFormerDecoder:
    """The decoder that ``cfg`` describes."""
    for name in ("decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_layers"):
        if getattr(cfg, name) < 1:
            raise InputError(f"{spelt(name)} must be 1 or more, got {getattr(cfg, name)}")
    for name in ("dropout", "attention_dropout", "activation_dropout", "adaptive_softmax_dropout"):
        if not 0 <= getattr(cfg, name) < 1:
            raise InputError(f"{spelt(name)} must lie in [0, 1), got {getattr(cfg, name)}")
    if cfg.stm_length < 0:
        raise InputError(f"--stm-length must be 0 or more, got {cfg.stm_length}")
    if str(cfg.position_encoding) == "learned":
        if cfg.stm_length:
            raise InputError(
                f"learned positions begin anew with every segment, so that a short-term memory would repeat them: give "
                f"--stm-length 0 instead of {cfg.stm_length}"
            )
        if cfg.max_target_positions < 1:
            raise InputError(f"--max-target-positions must be 1 or more, got {cfg.max_target_positions}")
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
            bands(
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
            dropout=cfg.dropout,
            attention_dropout=cfg.attention_dropout,
            activation_dropout=cfg.activation_dropout,
            activation=str(cfg.activation_fn),
            position_encoding=str(cfg.position_encoding),
            attention_bias=cfg.attention_bias,
        )
        for number in range(cfg.decoder_layers)
    ]
    for number in remembering:
        for parameter in layers[number].long_term_memory.parameters():
            parameter.param_group = "ltm"  # by fairseq's name for it, a group that an optimizer can tell apart
    return InfiniteFormerDecoder(cfg, dictionary, embed_tokens, layers)


def _layers_with_memory(cfg: InfiniteFormerConfig) -> set[int]:
    if str(cfg.long_term_memory) == "none":
        return set()
    if cfg.ltm_layers == "all":
        return set(range(cfg.decoder_layers))
    chosen = set(numbers(cfg.ltm_layers, int, "--ltm-layers"))
    if not chosen <= set(range(cfg.decoder_layers)):
        raise InputError(f"--ltm-layers must lie in 0..{cfg.decoder_layers - 1}, got {cfg.ltm_layers}")
    return chosen


def build_long_term_memory(cfg: InfiniteFormerConfig, layer: int) -> LongTermMemory:
    """The long-term memory of the layer of this number."""
    name = str(cfg.long_term_memory)
    if name not in MEMORIES:
        raise InputError(f"--long-term-memory {name} is not known; choose one of none, {', '.join(MEMORIES)}")
    registered = MEMORIES[name]
    settings = memory_settings(cfg, registered)
    try:
        memory = registered.memory.build(settings, cfg.decoder_embed_dim, cfg.decoder_attention_heads, layer)
    except SettingError as error:
        raise InputError(f"{spelt(f'{registered.prefix}_{error.setting}')} {error.problem}") from error
    if (ablation := str(cfg.ltm_ablation)) != "none":
        ablate(memory, ablation)
    return memory


def _register_anew(name: str) -> None:
    """Let fairseq know the options of a memory that was registered after the model."""
    node = InfiniteFormerConfig()
    node._name = "infinite_former_lm"
    ConfigStore.instance().store(name="infinite_former_lm", group="model", node=node, provider="fairseq")


LISTENERS.append(_register_anew)
