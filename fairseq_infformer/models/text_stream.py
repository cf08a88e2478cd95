"""Texts that a model reads and continues, and the file that keeps what it knows of them."""

import copy
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.files import replacing
from fairseq_infformer.modules.state import with_tensors
from fairseq_infformer.modules.streams import pieces

from .memory_format import tensors_of

if TYPE_CHECKING:
    from .streaming_lm import StreamingLanguageModel

FORMAT = 1
# Of what changes its shape with the text; all else has one shape in all files of a model.
OF_THE_TEXT = (".segment.", ".report.", ".before.", ".pairs.")


class Stream:
    """B texts that a model reads, each in segments of its own, and continues.

    A text begins with the dictionary's ``</s>``, as in training, which is read at once. What is kept does not grow with
    the text.

        stream = Stream(model, segment=512)
        stream.read(tokens)
        stream.save("book.memory")
        Stream.load("book.memory", model, segment=512).log_probs()

    Args:
        model: in evaluation mode. segment: tokens per segment, as in training. rows: B.
    """

    def __init__(self, model: "StreamingLanguageModel", segment: int, rows: int = 1) -> None:
        self.model, self.segment, self.decoder = model, segment, model.decoder
        most = self.decoder.max_positions()
        if not 1 <= segment <= most:
            raise InputError(f"segment must lie in 1..{most}, as many positions as the model has, got {segment}")
        self.layers: tuple[NamedTuple, ...] = self.decoder.empty_streams(rows)
        self.in_segment = torch.zeros(rows, dtype=torch.int64)  # tokens of the open segments
        self.tokens_read = torch.zeros(rows, dtype=torch.int64)  # </s> not counted
        self.last: Optional[Tensor] = None  # (B, C): what the output layer takes of the last token of each row
        self._read(torch.full((rows, 1), self.decoder.dictionary.eos()), torch.ones(rows, dtype=torch.int64))

    def read(self, tokens: Tensor, lengths: Optional[Tensor] = None) -> None:
        """Read the first ``lengths`` (B,) of the tokens (B, T) of each row, of any number; absent: all."""
        if lengths is None:
            lengths = torch.full((len(tokens),), tokens.shape[1])
        rows = len(self.in_segment)
        if len(tokens) != rows:
            raise InputError(f"tokens must have {rows} rows, as the stream has, got {len(tokens)}")
        if lengths.shape != (rows,) or not bool(((lengths >= 0) & (lengths <= tokens.shape[1])).all()):
            raise InputError(
                f"lengths must be {rows} numbers, one for each row, in 0..{tokens.shape[1]}, got {lengths.tolist()}"
            )
        self._read(tokens, lengths.cpu())
        self.tokens_read = self.tokens_read + lengths.cpu()

    @torch.no_grad()
    def _read(self, tokens: Tensor, lengths: Tensor) -> None:
        tokens = tokens.to(self.decoder.dictionary_checksum.device)
        for piece in pieces(lengths, self.in_segment, self.segment):
            columns = piece.first[:, None] + torch.arange(int(piece.lengths.max()))
            part = tokens.gather(1, columns.clamp_max(tokens.shape[1] - 1).to(tokens.device))
            hidden, self.layers = self.decoder.read_piece(piece, part, self.layers)
            last = hidden[torch.arange(len(hidden)), (piece.lengths - 1).clamp_min(0)]
            some = (piece.lengths > 0)[:, None].to(last.device)
            self.last = last if self.last is None else torch.where(some, last, self.last)
            self.in_segment = piece.start + piece.lengths

    @torch.no_grad()
    def log_probs(self) -> Tensor:
        """Log-probabilities (B, V) of the word that comes next."""
        output = self.decoder.output_layer(self.last[:, None])
        return self.decoder.get_normalized_probs((output, None), log_probs=True)[:, 0]

    def copy(self) -> "Stream":
        """Another stream at the same token, which may continue otherwise."""
        return copy.copy(self)  # what it has are values, which nothing changes in place

    def reorder(self, order: Tensor) -> None:
        """Let row i continue from what was row ``order[i]``; there may be more rows or fewer."""
        rows = order.cpu()
        self.layers = tuple(layer.reorder(order) for layer in self.layers)
        self.in_segment, self.tokens_read = self.in_segment[rows], self.tokens_read[rows]
        self.last = self.last.index_select(0, order.to(self.last.device))

    def save(self, file: str | Path) -> None:
        """Write a file from which ``load`` lets the same model continue: safetensors, which executes nothing."""
        tensors = tensors_of(self.decoder.kept(self.layers))
        tensors |= {"last": self.last, "in_segment": self.in_segment, "tokens_read": self.tokens_read}
        metadata = {
            "format": str(FORMAT),
            "model": checksum(self.model),
            "tokens_per_sample": str(self.segment),
            "tokens_read": json.dumps(self.tokens_read.tolist()),
        }
        # Layers may share a tensor, which safetensors refuses.
        own = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        with replacing(Path(file)) as new:
            new.write_bytes(save(own, metadata))

    @classmethod
    def load(cls, file: str | Path, model: "StreamingLanguageModel", segment: int) -> "Stream":
        """What ``save`` wrote of texts that this model has read; InputError if another did, or it is no such file."""
        try:
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"memory {file} cannot be read ({one_line(error)}); save it with Stream.save") from error
        if (number := metadata.get("format")) != str(FORMAT) or "model" not in metadata:
            raise InputError(f"memory {file} has format {number}, but this version reads {FORMAT}; read the text again")
        if metadata["model"] != checksum(model):
            raise InputError(f"memory {file} is of another model; read the text again with this one")
        if (known := metadata.get("tokens_per_sample")) != str(segment):
            raise InputError(f"memory {file} was read in segments of {known} tokens, not of {segment}; use the same")
        try:
            stream = cls(model, segment, rows=len(tensors["tokens_read"]))
            stream._restore(tensors)
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(f"memory {file} is damaged ({one_line(error, True)}); read the text again") from error
        return stream

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        # A stream that has read one token has all tensors that any has.
        like = self.decoder.kept(self.layers)
        for name, tensor in tensors_of(like).items():
            whole = not any(part in name for part in OF_THE_TEXT)
            if tensors[name].dim() != tensor.dim() or (whole and tensors[name].shape != tensor.shape):
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
        self.layers = self.decoder.continued(
            tuple(with_tensors(state, tensors, f"layers.{number}.") for number, state in enumerate(like))
        )
        self.last = tensors["last"].to(self.last)
        self.in_segment, self.tokens_read = tensors["in_segment"], tensors["tokens_read"]


def checksum(model: nn.Module) -> str:
    """SHA-256 of the names and values of all that is in the state of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
