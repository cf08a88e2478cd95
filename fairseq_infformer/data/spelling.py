"""Text as a vocabulary's token ids, and back, for a text of any length that comes bit by bit."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq.data import Dictionary
from fairseq.tokenizer import tokenize_line
from sentencepiece import SentencePieceProcessor

from fairseq_infformer.errors import InputError
from fairseq_infformer.vocabulary_files import SENTENCEPIECE, TokenizerDictionary, load_tokenizer

from .vocabulary import load_sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTEXT = 64  # tokens before those that are spelled next


class Spelling(ABC):
    """How a vocabulary spells text."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text. Its last line goes on with what follows, unless the text ends with a line end."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The text of ids; a character that is not complete is U+FFFD."""


class LineSpelling(Spelling):
    """Of vocabularies whose ``</s>`` is a line end."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary

    def encode(self, text: str) -> list[int]:
        *lines, rest = text.split("\n")
        return [
            *(number for line in lines for number in (*self.encode_line(line), self.dictionary.eos())),
            *self.encode_line(rest),
        ]

    def decode(self, ids: list[int]) -> str:
        lines: list[list[int]] = [[]]
        for number in ids:
            if number == self.dictionary.eos():
                lines.append([])
            else:
                lines[-1].append(number)
        return "\n".join(map(self.decode_line, lines))

    @abstractmethod
    def encode_line(self, line: str) -> list[int]:
        """The ids of a line without its end."""

    @abstractmethod
    def decode_line(self, ids: list[int]) -> str:
        """The text of these ids."""


class WordSpelling(LineSpelling):
    """Of a dictionary of words, which are separated by white space."""

    def encode_line(self, line: str) -> list[int]:
        return [self.dictionary.index(word) for word in tokenize_line(line) if word]

    def decode_line(self, ids: list[int]) -> str:
        return " ".join(self.dictionary[number] for number in ids)


class PieceSpelling(LineSpelling):
    """Of a dictionary of sentencepiece's pieces."""

    def __init__(self, dictionary: Dictionary, processor: SentencePieceProcessor) -> None:
        super().__init__(dictionary)
        self.processor = processor

    def encode_line(self, line: str) -> list[int]:
        return [self.dictionary.index(piece) for piece in self.processor.encode(line, out_type=str)]

    def decode_line(self, ids: list[int]) -> str:
        return self.processor.decode([self.dictionary[number] for number in ids])


class TokenizerSpelling(Spelling):
    """Of a Hugging Face tokenizer, whose tokens may reach across line ends."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def spelling_of(folder: Path, dictionary: Dictionary) -> Spelling:
    """How the vocabulary in a folder, with this dictionary, spells text; InputError if a file of it is missing."""
    if isinstance(dictionary, TokenizerDictionary):
        return TokenizerSpelling(load_tokenizer(folder, str(folder)))
    if (folder / SENTENCEPIECE).is_file():
        return PieceSpelling(dictionary, load_sentencepiece(folder / SENTENCEPIECE))
    if (folder / "vocab.json").is_file():
        raise InputError(
            f"{folder} has the tokens of GPT-2 as earlier versions prepared them, which this version does not spell; "
            "prepare the data with --level tokenizer, and train on it"
        )
    return WordSpelling(dictionary)


class Symbols:
    """Text as the symbols of a dictionary, with spaces between them, and back: what fairseq calls a BPE."""

    def __init__(self, spelling: Spelling, dictionary: Dictionary) -> None:
        self.spelling, self.dictionary = spelling, dictionary

    def encode(self, text: str) -> str:
        """The symbols of a text."""
        return " ".join(self.dictionary[number] for number in self.spelling.encode(text))

    def decode(self, symbols: str) -> str:
        """The text of symbols, in one line, as fairseq prints it: a line end within is ``\\n``."""
        text = self.spelling.decode([self.dictionary.index(symbol) for symbol in symbols.split(" ") if symbol])
        return text.replace("\n", "\\n")


class Continuation:
    """Spells a text token by token: each call gives what its tokens add to the text before them.

    Args:
        before: ids of the text that is continued.
    """

    def __init__(self, spelling: Spelling, before: Iterable[int] = ()) -> None:
        self.spelling, self.ids = spelling, list(before)[-CONTEXT:]
        self.text = spelling.decode(self.ids)

    def add(self, number: int) -> str:
        """The text that a token adds; empty until a character that it is a part of is complete."""
        self.ids.append(number)
        text = self.spelling.decode(self.ids)
        if text.endswith("\ufffd"):
            return ""
        added = text[len(self.text) :]
        if len(self.ids) > 4 * CONTEXT:
            self.ids = self.ids[-CONTEXT:]
            text = self.spelling.decode(self.ids)
        self.text = text
        return added
