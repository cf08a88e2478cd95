"""The encoders that the recipe of speech compares, as its table and plots have them."""

from typing import NamedTuple


class Encoder(NamedTuple):
    """An encoder of speech."""

    label: str  # in plots
    color: str
    line: str  # matplotlib's style of a line
    arguments: str  # of fairseq-train
    whole: bool = False  # whether it encodes a stream from its start again whenever more of it has come


def _streaming(memory: str) -> str:
    return f"--arch streaming_translation --long-term-memory {memory}"


ROWS = {
    "bank": Encoder("augmented memory", "#1d4ed8", "-", _streaming("bank")),
    "continuous": Encoder(
        "∞-former's memory, Gibbs read",
        "#7c3aed",
        "-",
        _streaming("continuous --ltm-density gibbs --ltm-basis 32 --ltm-contraction proportional"),
    ),
    "none": Encoder("segments without memory", "#6b7280", "-", _streaming("none")),
    "unidirectional": Encoder("unidirectional", "#d97706", "--", "--arch unidirectional_translation", whole=True),
    "full": Encoder("full attention", "#111827", "--", "--arch full_attention_translation", whole=True),
}
