"""The files of a vocabulary, by the names they have in data folders, in exported models and in published ones."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq.data import Dictionary

from .errors import InputError, one_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DICTIONARY = "dict.txt"
SENTENCEPIECE = "sentencepiece.model"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"  # of Hugging Face
# Of the dictionary's words; a folder may have some of them: vocab.json and merges.txt from earlier versions.
SPELLINGS = (SENTENCEPIECE, TOKENIZER, TOKENIZER_CONFIG, "vocab.json", "merges.txt")

END_OF_TEXT = "<|endoftext|>"  # GPT-2's token between documents


class TokenizerDictionary(Dictionary):
    """A tokenizer's tokens at its own ids, and fairseq's four special words after them, at ids that no text has.

    fairseq's own dictionaries begin with these words, and the rows of a pretrained model would have to move. The file
    is a line ``#tokenizer`` and a line per token, in which white space is escaped. It has no counts, without which
    fairseq itself does not read it, and so never reads it with other ids.

    Args:
        tokens: in the order of their ids.
    """

    HEAD = "#tokenizer"

    def __init__(self, tokens: list[str]) -> None:
        super().__init__()
        self.num_tokens = len(tokens)
        self.symbols = [*tokens, *self.symbols]
        self.count = [1] * len(self.symbols)
        # A token that is spelled like a special word goes before it, as any other would.
        self.indices = {symbol: number for number, symbol in reversed(list(enumerate(self.symbols)))}
        self.bos_index, self.pad_index, self.eos_index, self.unk_index = range(len(tokens), len(self.symbols))

    @classmethod
    def of(cls, tokenizer: "Tokenizer") -> "TokenizerDictionary":
        """The dictionary of a tokenizer of the library ``tokenizers``; an id without a token gets a name."""
        ids = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
        tokens = [ids.get(number, f"<unused-id-{number}>") for number in range(max(ids) + 1)]
        return cls([re.sub(r"\s", lambda sign: f"\\u{ord(sign[0]):04x}", token) for token in tokens])

    @classmethod
    def read(cls, file: Path) -> "TokenizerDictionary":
        """The dictionary that ``save`` has written."""
        return cls(file.read_text(encoding="utf-8").removesuffix("\n").split("\n")[1:])

    def save(self, file: str) -> None:
        """Write dict.txt."""
        lines = [self.HEAD, *self.symbols[: self.num_tokens]]
        Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_dictionary(file: Path) -> Dictionary:
    """The dictionary in a file, fairseq's or a tokenizer's; InputError if it is neither, or has no words."""
    try:
        with file.open("rb") as lines:
            if lines.readline() == TokenizerDictionary.HEAD.encode() + b"\n":
                return TokenizerDictionary.read(file)
        dictionary = Dictionary.load(str(file))
    except Exception as error:
        raise InputError(
            f"{file} cannot be read as a fairseq dictionary ({one_line(error)}); give a dict.txt made by prepare.sh"
        ) from error
    if len(dictionary) == dictionary.nspecial:
        raise InputError(f"{file} has no words; give a dict.txt made by prepare.sh")
    return dictionary


def write_word_tokenizer(folder: Path, dictionary: Dictionary) -> None:
    """Write a dictionary of words as a Hugging Face tokenizer, which puts ``</s>`` before a text and at each line end.

    Raises:
        InputError: if the library that writes it is not installed.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    except ModuleNotFoundError as error:
        raise InputError("--to hf needs tokenizers, which is not installed; run: pip install '.[hf]'") from error
    end, unknown, pad = (dictionary[number] for number in (dictionary.eos(), dictionary.unk(), dictionary.pad()))
    tokenizer = Tokenizer(models.WordLevel(dict(dictionary.indices), unk_token=unknown))
    tokenizer.normalizer = normalizers.Replace("\n", f" {end} ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(f"{end} $A", special_tokens=[(end, dictionary.eos())])
    tokenizer.save(str(folder / TOKENIZER))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end}
    config |= {"unk_token": unknown, "pad_token": pad}
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path, name: str) -> "Tokenizer":
    """The tokenizer of a folder of Hugging Face's.

    Raises:
        InputError: if there is none, or the library that reads it is not installed; ``name`` is the option, and what
            was given for it.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise InputError(f"{name} needs tokenizers, which is not installed; run: pip install '.[hf]'") from error
    file = folder / TOKENIZER
    if not file.is_file():
        raise InputError(f"{name} has no {TOKENIZER}; save the tokenizer there with transformers' save_pretrained")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # of the library, which has no class of its own for them
        raise InputError(f"{file} cannot be read as a tokenizer ({one_line(error)}); download it again") from error
