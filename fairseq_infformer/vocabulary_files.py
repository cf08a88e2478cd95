"""The files of a vocabulary, by the names they have in data folders, in exported models and in a published GPT-2."""

from pathlib import Path

from fairseq.data import Dictionary

from .errors import InputError, one_line

DICTIONARY = "dict.txt"
SENTENCEPIECE = "sentencepiece.model"
GPT2_VOCABULARY, GPT2_MERGES = "vocab.json", "merges.txt"
SPELLINGS = (SENTENCEPIECE, GPT2_VOCABULARY, GPT2_MERGES)  # of the dictionary's words; a folder may have some of them

END_OF_TEXT = "<|endoftext|>"  # GPT-2's token between documents


def load_dictionary(file: Path) -> Dictionary:
    """A fairseq dictionary from its file; InputError if it is not one, or has no words."""
    try:
        dictionary = Dictionary.load(str(file))
    except Exception as error:
        raise InputError(
            f"{file} cannot be read as a fairseq dictionary ({one_line(error)}); give a dict.txt made by prepare.sh"
        ) from error
    if len(dictionary) == dictionary.nspecial:
        raise InputError(f"{file} has no words; give a dict.txt made by prepare.sh")
    return dictionary


def gpt2_file(folder: Path, name: str) -> Path:
    """A file of a published GPT-2; InputError if the folder lacks it."""
    if not (folder / name).is_file():
        raise InputError(f"--gpt2 {folder} has no {name}; give the folder of a GPT-2 as Hugging Face publishes it")
    return folder / name
