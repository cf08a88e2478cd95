"""Dictionaries of words and of sentencepiece pieces, and text binarised with them the way fairseq does it.

A sentencepiece model trained by this module loses nothing: it does not normalise, keeps every space, and spells
characters without a piece in bytes. So the pieces decode to the original line, and bits per byte are exact. (One
exception: U+2581, sentencepiece's own sign for a space, decodes to a space.) Its ids are fairseq's ids. ``<unk>`` in
the text is one piece, and becomes fairseq's ``<unk>``.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from fairseq.binarizer import Binarizer, BinarizeSummary, FileBinarizer
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.tokenizer import tokenize_line
from sentencepiece import SentencePieceProcessor
from torch import IntTensor, Tensor
from tqdm import tqdm

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.vocabulary_files import TokenizerDictionary

# Words that fairseq's dictionary reserves. <unk> is not among them: in a text it means what it means to fairseq.
RESERVED = frozenset({"<s>", "<pad>", "</s>"})

# sentencepiece's sign for unknown characters in training: it skips every training line that contains one.
UNKNOWN_SIGN = "\u2585"
# sentencepiece skips training lines of more than 4,192 bytes: longer ones are cut, after a space if possible.
TRAINING_LINE = re.compile(r".{1,1000}(?:(?<=\s)|$)|.{1,1000}")
# Above this many lines it learns from a sample, which bounds its memory and hardly changes its pieces.
MAX_TRAINING_LINES = 2_000_000


def word_dictionary(text: Path, size: int | None, workers: int) -> Dictionary:
    """The words of a text by frequency, as ``fairseq-preprocess --nwordssrc SIZE`` has them (None: all)."""
    dictionary = Dictionary()
    Dictionary.add_file_to_dictionary(str(text), dictionary, tokenize_line, workers)
    dictionary.finalize(nwords=-1 if size is None else size)
    return dictionary


def train_sentencepiece(text: Path, model: Path, size: int, model_type: str) -> None:
    """Train a model (``unigram`` or ``bpe``) on a text; InputError if ``size`` is too large or too small for the text.

    The same text and arguments give the same pieces: the seed is fixed, and so is the number of threads, on which the
    scores of a unigram model depend.
    """
    with text.open(encoding="utf-8", newline="\n") as lines:
        symbols = ["<unk>", UNKNOWN_SIGN] if any(UNKNOWN_SIGN in line for line in lines) else ["<unk>"]
    sentencepiece.set_random_generator_seed(1)
    try:
        with model.open("wb") as writer:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_training_sentences(text, symbols),
                model_writer=writer,
                vocab_size=size,
                model_type=model_type,
                # <s>, <pad>, </s>, <unk> are 0, 1, 2, 3 as in fairseq. Free ids go to the user-defined symbols, so 3 is
                # the <unk> of the text; sentencepiece's own unknown piece never occurs.
                bos_id=0,
                pad_id=1,
                eos_id=2,
                unk_id=4,
                unk_piece="<unencodable>",
                user_defined_symbols=symbols,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                input_sentence_size=MAX_TRAINING_LINES,
                shuffle_input_sentence=True,
                num_threads=16,
                minloglevel=2,
            )
    except RuntimeError as error:
        raise InputError(_training_problem(error, size, symbols)) from error


def _training_sentences(text: Path, symbols: list[str]) -> Iterator[str]:
    between = re.compile("|".join(symbols))
    with text.open(encoding="utf-8", newline="\n") as lines:
        for line in tqdm(lines, desc="sentencepiece", unit=" lines", unit_scale=True, disable=None):
            # Lone spaces, at the ends of lines and before <unk>, would teach a unigram model to split every word from
            # its space: on WikiText-2 that made a fifth more tokens.
            for part in between.split(line):
                yield from TRAINING_LINE.findall(part.strip())


def _training_problem(error: RuntimeError, size: int, symbols: list[str]) -> str:
    if too_high := re.search(r"too high .* <= (\d+)", str(error)):
        return f"--vocab-size {size} is too large for the training text; give at most {too_high[1]}"
    if too_low := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
        return f"--vocab-size {size} is too small for the bytes and characters; give at least {too_low[1]}"
    if "!sentences_.empty()" in str(error):
        return f"train has only {' and '.join(symbols)}, from which sentencepiece cannot learn; give another text"
    return f"sentencepiece cannot be trained with --vocab-size {size} ({one_line(error)}); give another size"


def load_sentencepiece(file: Path) -> SentencePieceProcessor:
    """A sentencepiece model from its file; InputError if it cannot be read as one."""
    try:
        return SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{file} cannot be read as a sentencepiece model; give a sentencepiece.model made by prepare.sh"
        ) from error


def sentencepiece_dictionary(processor: SentencePieceProcessor) -> Dictionary:
    """The pieces of a model in the order of their ids, which are fairseq's ids for a model of ``train_sentencepiece``.

    They are not sorted by frequency, as an adaptive softmax would require.
    """
    dictionary = Dictionary()
    for piece in map(processor.id_to_piece, range(len(processor))):
        if piece not in dictionary:
            dictionary.add_symbol(piece)
    return dictionary


def check_reserved(processor: SentencePieceProcessor) -> None:
    """InputError if a model has a piece for a word that fairseq reserves, such as ``<pad>``, which no loss counts."""
    for word in sorted(RESERVED):
        number = processor.piece_to_id(word)
        if processor.id_to_piece(number) == word and not processor.is_control(number):
            raise InputError(
                f"--sentencepiece-model has an ordinary piece {word}, which fairseq reserves; give another model"
            )


def check_pieces(
    processor: SentencePieceProcessor, dictionary: Dictionary, model_name: str, dictionary_name: str
) -> None:
    """InputError, with these names, if a dictionary lacks most pieces of a model: the two do not belong together."""
    missing = sum(piece not in dictionary for piece in map(processor.id_to_piece, range(len(processor))))
    if 2 * missing > len(processor):
        raise InputError(
            f"{dictionary_name} lacks {missing} of the {len(processor)} pieces of {model_name}; give two files of one "
            "vocabulary"
        )


def count_types(dictionary: Dictionary) -> int:
    """Entries that a text can have: all but ``<s>``, ``<pad>`` and those that pad the size to a multiple of 8."""
    if isinstance(dictionary, TokenizerDictionary):
        return dictionary.num_tokens
    padding = sum(
        symbol.startswith("madeupword") and count == 0
        for symbol, count in zip(dictionary.symbols, dictionary.count, strict=True)
    )
    return len(dictionary) - 2 - padding


def words_of_texts(dictionary: Dictionary) -> Tensor:
    """(V,) bool: the words that a text can have, see ``count_types``."""
    if isinstance(dictionary, TokenizerDictionary):
        return torch.arange(len(dictionary)) < dictionary.num_tokens
    words = torch.arange(len(dictionary)) < 2 + count_types(dictionary)
    words[[dictionary.bos(), dictionary.pad()]] = False
    return words


class SentencePieceBinarizer(Binarizer):
    """Encodes a line as the dictionary ids of its pieces, and ``</s>``."""

    def __init__(self, processor: SentencePieceProcessor, dictionary: Dictionary) -> None:
        self.processor = processor
        self.pieces = [processor.id_to_piece(number) for number in range(len(processor))]
        self.ids = [dictionary.index(piece) for piece in self.pieces]
        self.eos = dictionary.eos()
        self.unknown = {
            number
            for number, piece in enumerate(self.pieces)
            if self.ids[number] == dictionary.unk() and (processor.is_unknown(number) or piece != dictionary.unk_word)
        }

    def binarize_line(self, line: str, summary: BinarizeSummary) -> IntTensor:
        """Ids (T,) of a line; the summary counts the pieces that are not in the dictionary."""
        numbers = self.processor.encode(line.removesuffix("\n"))
        if summary.replaced is None:
            summary.replaced = Counter()
        if not self.unknown.isdisjoint(numbers):
            summary.replaced.update(self.pieces[number] for number in numbers if number in self.unknown)
        summary.num_seq += 1
        summary.num_tok += len(numbers) + 1
        return IntTensor([*(self.ids[number] for number in numbers), self.eos])


class _WithProgress(Binarizer):
    def __init__(self, binarizer: Binarizer, bar: tqdm) -> None:
        self.binarizer, self.bar = binarizer, bar

    def binarize_line(self, line: str, summary: BinarizeSummary) -> IntTensor:
        self.bar.update()
        return self.binarizer.binarize_line(line, summary)


def binarize(
    text: Path, prefix: Path, binarizer: Binarizer, num_types: int, workers: int, lines: int
) -> tuple[np.ndarray, int]:
    """Write ``prefix.bin`` and ``prefix.idx`` from a text, byte for byte as fairseq-preprocess would.

    Args:
        text: file of ``lines`` LF-ended lines; a blank one is a line too.
        binarizer: encodes a line, by a dictionary of ``num_types``.

    Returns:
        number of tokens of each line, its end included; and how many tokens were not in the dictionary.
    """
    with tqdm(total=lines, desc=f"binarise {prefix.name}", unit=" lines", unit_scale=True, disable=None) as bar:
        summary = FileBinarizer.multiprocess_dataset(
            str(text),
            "mmap",
            # A progress bar cannot follow other processes.
            _WithProgress(binarizer, bar) if workers == 1 else binarizer,
            str(prefix),
            vocab_size=num_types,
            num_workers=workers,
        )
    # Kept in a variable, because the sizes are a view of a file that is unmapped with the dataset.
    written = MMapIndexedDataset(str(prefix))
    sizes = written.sizes.astype(np.int64)
    # fairseq cuts a text for its workers at file positions that Python does not guarantee to be exact.
    if len(sizes) != lines or sizes.sum() != summary.num_tok:
        raise InputError(f"fairseq turned the {lines} lines of {prefix.name} into {len(sizes)}; give --workers 1")
    return sizes, summary.num_replaced
