"""GPT-2's byte-level BPE from its published files, vocab.json and merges.txt, and the dictionary that goes with it.

A line is encoded with its line end, so that tokens spell the text, and by itself. GPT-2's own encoder differs from that
only where white space goes on from one line to the next, as in several blank lines.

The dictionary is of GPT-2's size. ``</s>``, which no line ends with here, is GPT-2's end of text, so that a document is
read after one. ``<s>``, ``<pad>`` and ``<unk>`` take the places of three bytes that no UTF-8 has. All other tokens
follow in GPT-2's order, by GPT-2's spelling: a space is Ġ, a line end is Ċ.
"""

import json
from pathlib import Path

from fairseq.binarizer import Binarizer, BinarizeSummary
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import Encoder, bytes_to_unicode
from torch import IntTensor

from fairseq_infformer.errors import InputError

VOCABULARY, MERGES = "vocab.json", "merges.txt"
END_OF_TEXT = "<|endoftext|>"
# Bytes that do not occur in UTF-8 (RFC 3629, section 1).
NEVER_IN_TEXT = [bytes_to_unicode()[byte] for byte in (0xC0, 0xC1, 0xF5)]


def load_encoder(folder: Path) -> Encoder:
    """fairseq's GPT-2 encoder with the files of a folder; InputError if they are not those of a GPT-2."""
    for name in (VOCABULARY, MERGES):
        if not (folder / name).is_file():
            raise InputError(f"--gpt2 {folder} has no {name}; give the folder of a GPT-2 as Hugging Face publishes it")
    try:
        vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError(f"{VOCABULARY} does not number its tokens from 0")
        needed = {END_OF_TEXT, *bytes_to_unicode().values(), *(first + second for first, second in merges)}
        if missing := sorted(needed - vocabulary.keys()):
            raise ValueError(f"{VOCABULARY} lacks {missing[0]}")
        if reserved := sorted(set(Dictionary().symbols) & vocabulary.keys()):
            raise ValueError(f"{VOCABULARY} has {reserved[0]}, which fairseq keeps for itself")
    except (ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--gpt2 {folder} has no vocabulary of a GPT-2 ({reason}); give another") from error
    return Encoder(vocabulary, merges)


def gpt2_dictionary(encoder: Encoder) -> Dictionary:
    """The dictionary of a GPT-2 in the order described above."""
    dictionary = Dictionary()
    for number in range(len(encoder.encoder)):
        if (token := encoder.decoder[number]) not in (END_OF_TEXT, *NEVER_IN_TEXT):
            dictionary.add_symbol(token)
    return dictionary


class Gpt2Binarizer(Binarizer):
    """A line's tokens, that of its line end among them, as ids of ``gpt2_dictionary``.

    Args:
        folder: has vocab.json and merges.txt. dictionary: made of them.
    """

    def __init__(self, folder: Path, dictionary: Dictionary) -> None:
        self.folder, self.dictionary = folder, dictionary
        self.encoder = load_encoder(folder)
        self.ids = [dictionary.index(self.encoder.decoder[number]) for number in range(len(self.encoder.encoder))]

    def __reduce__(self) -> tuple:
        return type(self), (self.folder, self.dictionary)  # the encoder cannot be sent to another process

    def binarize_line(self, line: str, summary: BinarizeSummary) -> IntTensor:
        """Ids (T,) of a line; all of them are in the dictionary."""
        numbers = self.encoder.encode(line.removesuffix("\n") + "\n")
        summary.num_seq += 1
        summary.num_tok += len(numbers)
        return IntTensor([self.ids[number] for number in numbers])
