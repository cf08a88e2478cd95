"""GPT-2's byte-level BPE from its published files, vocab.json and merges.txt, and the dictionary that goes with it.

Each line is encoded separately, together with its line end, so that the tokens spell the text. GPT-2 itself encodes a
text as a whole, which differs only where white space continues from one line to the next, as in several blank lines.

The dictionary has the size of GPT-2's. ``</s>``, with which no line ends at this level, is GPT-2's end of text, so that
a document is read after one. ``<s>``, ``<pad>`` and ``<unk>`` replace three bytes that never occur in UTF-8. All other
tokens follow in GPT-2's order and spelling: a space is Ġ, a line end is Ċ.
"""

import json
from pathlib import Path

from fairseq.binarizer import Binarizer, BinarizeSummary
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import Encoder, bytes_to_unicode
from torch import IntTensor

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.vocabulary_files import END_OF_TEXT, GPT2_MERGES, GPT2_VOCABULARY, gpt2_file

# Bytes that do not occur in UTF-8 (RFC 3629, section 1).
NEVER_IN_TEXT = [bytes_to_unicode()[byte] for byte in (0xC0, 0xC1, 0xF5)]


def load_encoder(folder: Path) -> Encoder:
    """fairseq's GPT-2 encoder with the files of a folder; InputError if they are not those of a GPT-2."""
    vocabulary_file, merges_file = (gpt2_file(folder, name) for name in (GPT2_VOCABULARY, GPT2_MERGES))
    try:
        vocabulary = json.loads(vocabulary_file.read_text(encoding="utf-8"))
        lines = merges_file.read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError(f"{GPT2_VOCABULARY} does not number its tokens from 0")
        needed = {END_OF_TEXT, *bytes_to_unicode().values(), *(first + second for first, second in merges)}
        if missing := sorted(needed - vocabulary.keys()):
            raise ValueError(f"{GPT2_VOCABULARY} lacks {missing[0]}")
        if reserved := sorted(set(Dictionary().symbols) & vocabulary.keys()):
            raise ValueError(f"{GPT2_VOCABULARY} has {reserved[0]}, which fairseq reserves")
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"--gpt2 {folder} does not hold the vocabulary of a GPT-2 ({one_line(error)}); give another folder"
        ) from error
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
        folder: has vocab.json and merges.txt. dictionary: made from them.
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
