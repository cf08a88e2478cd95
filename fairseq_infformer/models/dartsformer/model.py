"""DARTSformer's supernet and the nets that come of it, with the sizes of the paper."""

from typing import Any

from fairseq.models import FairseqEncoderDecoderModel, register_model, register_model_architecture

from fairseq_infformer.errors import InputError
from fairseq_infformer.models.architectures import set_defaults
from fairseq_infformer.models.configuration import with_defaults

from .architecture import Architecture, chosen, read_architecture
from .configuration import DartsformerConfig, DartsformerSearchConfig, NetConfig, check_net, searched
from .stack import DartsformerDecoder, DartsformerEncoder, Stack

MODEL, SEARCH = "dartsformer", "dartsformer_search"


def _sides(cfg: NetConfig, task: Any, encoder: Stack, decoder: Stack) -> tuple[DartsformerEncoder, DartsformerDecoder]:
    built = DartsformerEncoder(cfg, task.source_dictionary, encoder, task.cfg.max_source_positions)
    tokens = built.embedding.tokens if cfg.share_all_embeddings else None
    return built, DartsformerDecoder(cfg, task.target_dictionary, decoder, task.cfg.max_target_positions, tokens)


class _Net(FairseqEncoderDecoderModel):
    def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """InputError if these are weights of another net."""
        try:
            return super().load_state_dict(state_dict, *args, **kwargs)
        except RuntimeError as error:
            raise InputError(
                "the weights in the checkpoint are of another architecture or size; give the options that it was "
                "trained with, or another --save-dir"
            ) from error


@register_model(MODEL, dataclass=DartsformerConfig)
class Dartsformer(_Net):
    """A net of one operation per node, trained by ordinary back-propagation."""

    @classmethod
    def complete(cls, cfg: Any) -> None:
        """Put the content of ``--architecture`` in its place, which checkpoints hold; InputError if it is wrong."""
        cfg.architecture = _architecture(getattr(cfg, "architecture", None)).to_json()

    @classmethod
    def build_model(cls, cfg: DartsformerConfig, task: Any) -> "Dartsformer":
        """Build the net for the dictionaries of a translation task; InputError names a wrong setting."""
        return cls.build(with_defaults(cfg, DartsformerConfig), task)

    @classmethod
    def build(cls, cfg: DartsformerConfig, task: Any) -> "Dartsformer":
        """The same for settings that are complete."""
        architecture = _architecture(cfg.architecture)
        check_net(cfg, DartsformerConfig, task, architecture.splits, len(architecture.encoder))
        stacks = (
            Stack([[[name] for name in layer] for layer in layers], count, recompute=False)
            for layers, count in zip(architecture, (cfg.encoder_layers, cfg.decoder_layers))
        )
        return cls(*_sides(cfg, task, *stacks))


def _architecture(given: str | None) -> Architecture:
    if not given:
        raise InputError("--architecture is missing; give a file that infformer-architecture wrote of a search")
    return read_architecture(given)


@register_model(SEARCH, dataclass=DartsformerSearchConfig)
class DartsformerSearch(_Net):
    """A reversible net of all operations in every node, weighted by the softmax of α."""

    def __init__(self, encoder: DartsformerEncoder, decoder: DartsformerDecoder, names: tuple[list[str], ...]) -> None:
        super().__init__(encoder, decoder)
        self.names = names  # of the operations of encoder and decoder

    @classmethod
    def build_model(cls, cfg: DartsformerSearchConfig, task: Any) -> "DartsformerSearch":
        """Build the net for the dictionaries of a translation task; InputError names a wrong setting."""
        return cls.build(with_defaults(cfg, DartsformerSearchConfig), task)

    @classmethod
    def build(cls, cfg: DartsformerSearchConfig, task: Any) -> "DartsformerSearch":
        """The same for settings that are complete."""
        for name, least in (("splits", 2), ("search_layers", 1)):
            if (value := getattr(cfg, name)) < least:
                raise InputError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
        check_net(cfg, DartsformerSearchConfig, task, cfg.splits, cfg.search_layers)
        names = tuple(searched(cfg, side) for side in ("encoder", "decoder"))
        stacks = (
            Stack([[own] * cfg.splits] * cfg.search_layers, count, recompute=not cfg.keep_activations)
            for own, count in zip(names, (cfg.encoder_layers, cfg.decoder_layers))
        )
        return cls(*_sides(cfg, task, *stacks), names)

    def operation_weights(self) -> dict[str, list]:
        """The softmax of α by side, layer, node and operation, to four digits."""
        return {
            side: [
                [[round(weight, 4) for weight in node] for node in layer] for layer in stack.layers.weights().tolist()
            ]
            for side, stack in (("encoder", self.encoder), ("decoder", self.decoder))
        }

    def architecture(self) -> Architecture:
        """The operation with the greatest α in each node."""
        alphas = (side.layers.alpha.tolist() for side in (self.encoder, self.decoder))
        return Architecture(*(chosen(own, alpha) for own, alpha in zip(self.names, alphas)))


TINY = {
    "embed_dim": 96,
    "factor_dim": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "attention_heads": 4,
    "share_all_embeddings": True,
}
BIG = {"embed_dim": 1824, "factor_dim": 512, "dropout": 0.3}


@register_model_architecture(MODEL, "dartsformer_tiny")
def dartsformer_tiny(args: Any) -> None:
    """Two layers that train in minutes on two CPU cores."""
    set_defaults(args, **TINY)


@register_model_architecture(MODEL, "dartsformer_big")
def dartsformer_big(args: Any) -> None:
    """The paper's large net (its base is the default)."""
    set_defaults(args, **BIG)


@register_model_architecture(SEARCH, "dartsformer_search_tiny")
def dartsformer_search_tiny(args: Any) -> None:
    """The supernet of ``dartsformer_tiny``: each layer is searched, and none repeats."""
    set_defaults(args, **TINY)
