"""Text as ids and back, whole and token by token."""

import pytest
from fairseq.data import Dictionary

from fairseq_infformer.data.spelling import Continuation, PieceSpelling, Symbols, TokenizerSpelling, WordSpelling
from fairseq_infformer.data.vocabulary import load_sentencepiece, sentencepiece_dictionary, train_sentencepiece
from fairseq_infformer.vocabulary_files import TokenizerDictionary

TEXT = "Grüße aus Köln\n\nzwei 日本 Wörter und 🙂 mehr\nam Ende ohne Ende"


def words():
    dictionary = Dictionary()
    for word in TEXT.split():
        dictionary.add_symbol(word)
    return WordSpelling(dictionary)


@pytest.fixture
def spellings(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    import small_tokenizer

    (tmp_path / "text").write_text(TEXT + "\n", encoding="utf-8")
    train_sentencepiece(tmp_path / "text", tmp_path / "model", 300, "bpe")
    processor = load_sentencepiece(tmp_path / "model")
    folder = small_tokenizer.write(tmp_path, "other text, so that characters are spelled in bytes")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [words(), PieceSpelling(sentencepiece_dictionary(processor), processor), TokenizerSpelling(tokenizer)]


def test_decode_gives_the_text_that_was_encoded(spellings):
    for spelling in spellings:
        for text in (TEXT, TEXT + "\n", "", "\n"):
            assert spelling.decode(spelling.encode(text)) == text


def test_continuation_adds_up_to_the_text_without_half_characters(spellings):
    """After any part of the text, and for more tokens than it keeps."""
    for spelling in spellings:
        ids = spelling.encode("\n".join([TEXT] * 20))
        for start in (0, len(spelling.encode("Grüße aus")), len(ids) // 2):
            continuation = Continuation(spelling, ids[:start])
            parts = [continuation.add(number) for number in ids[start:]]
            assert "".join(parts) == spelling.decode(ids)[len(spelling.decode(ids[:start])) :]


def test_symbols_are_separated_by_spaces_and_give_the_text_in_one_line(spellings):
    for spelling in spellings:
        dictionary = getattr(spelling, "dictionary", None) or TokenizerDictionary.of(spelling.tokenizer)
        symbols, line = Symbols(spelling, dictionary), TEXT.replace("\n", " ")
        encoded = symbols.encode(line)
        assert len(encoded.split()) == len(spelling.encode(line)) and symbols.decode(encoded).split() == line.split()
        assert symbols.decode("") == ""
    assert symbols.decode(symbols.encode("mehr\nam")) == "mehr\\nam"  # of a tokenizer, which spells line ends


def test_encode_ends_a_line_only_where_the_text_does():
    spelling = words()
    eos = spelling.dictionary.eos()
    assert spelling.encode("aus Köln\n")[-1] == eos != spelling.encode("aus Köln")[-1]
    assert spelling.encode("unbekannt") == [spelling.dictionary.unk()]
