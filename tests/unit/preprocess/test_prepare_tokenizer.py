"""--level tokenizer: the ids of a Hugging Face tokenizer, and fairseq's special words after them."""

import json
import sys

import numpy as np
import pytest
import small_tokenizer
from fairseq.data import Dictionary
from preparing import lines_of, refused, run, stats, write
from small_tokenizer import END
from tokenizers import AddedToken, Tokenizer, models

from fairseq_infformer.data import tokenizer_text
from fairseq_infformer.errors import InputError
from fairseq_infformer.vocabulary_files import TokenizerDictionary, load_dictionary, load_tokenizer

BOOKS = {"a": "A title.\n\nThe first line.\nThe second.\n\n\nThe end.\n", "b": "\nAnother book, 日本 😀.\n"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer.write(tmp_path_factory.mktemp("tokenizer"), "".join(BOOKS.values()))


@pytest.fixture
def data(tmp_path, tokenizer):
    raw = write(tmp_path / "raw", train=BOOKS, valid={"a": BOOKS["a"]})
    run(raw, tmp_path / "data", "--tokenizer", tokenizer, "--documents", "file", level="tokenizer")
    return tmp_path / "data"


def test_tokenizer_level_keeps_the_ids_of_each_document_encoded_as_a_whole(data, tokenizer):
    library = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    expected = [library.encode(book, add_special_tokens=False).ids for book in BOOKS.values()]
    assert lines_of(data, "train") == expected
    assert any(".\n\n" in library.decode([token]) for token in expected[0]), "a token should reach across a line end"
    assert np.load(data / "train.documents.npy").tolist() == [0, len(expected[0])]
    assert [library.decode(ids) for ids in expected] == list(BOOKS.values())


def test_tokenizer_level_notes_its_counts_and_files(data, tokenizer):
    notes = stats(data)
    train = notes["splits"]["train"]
    assert train["words"] == sum(len(line.split()) + 1 for book in BOOKS.values() for line in book.splitlines())
    assert train["documents"] == 2 and train["unknown"] == 0
    assert train["tokens"] == sum(map(len, lines_of(data, "train")))
    assert (data / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()
    assert list(notes["made_from"]["tokenizer"]) == ["tokenizer.json"]
    assert notes["dictionary"]["types"] == Tokenizer.from_file(str(data / "tokenizer.json")).get_vocab_size()


def test_dictionary_has_each_token_at_its_id_and_special_words_after_them(data, tokenizer):
    dictionary = load_dictionary(data / "dict.txt")
    library = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    assert all(dictionary.index(token) == number for token, number in library.get_vocab().items())
    after = {dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()}
    assert after == set(range(library.get_vocab_size(), len(dictionary)))


def test_fairseq_alone_refuses_a_dictionary_whose_ids_it_would_move(data):
    with pytest.raises(ValueError, match="Incorrect dictionary format"):
        Dictionary.load(str(data / "dict.txt"))


def test_dictionary_keeps_tokens_with_white_space_and_names_of_special_words(tmp_path):
    tokens = ["<s>", "<pad>", " ", "\n\n", "a\u2028b", "</s>"]
    TokenizerDictionary.of(Tokenizer(models.WordLevel(dict(zip(tokens, range(6)))))).save(str(tmp_path / "dict.txt"))
    dictionary = load_dictionary(tmp_path / "dict.txt")
    assert dictionary.symbols[:6] == ["<s>", "<pad>", r"\u0020", r"\u000a\u000a", r"a\u2028b", "</s>"]
    assert dictionary.index("<pad>") == 1 and dictionary.pad() == 7


def test_dictionary_names_ids_that_no_token_has(tokenizer):
    library = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    spelled = json.loads(library.to_str())
    spelled["added_tokens"].append(spelled["added_tokens"][0] | {"id": library.get_vocab_size() + 2, "content": "<x>"})
    spelled["model"]["vocab"]["<x>"] = library.get_vocab_size() + 2
    assert TokenizerDictionary.of(Tokenizer.from_str(json.dumps(spelled))).symbols[-7:-4] == [
        f"<unused-id-{library.get_vocab_size()}>",
        f"<unused-id-{library.get_vocab_size() + 1}>",
        "<x>",
    ]


def test_binarize_cuts_long_documents_at_line_ends_and_counts_what_is_unknown(data, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_text, "PART", 10)
    library = load_tokenizer(tokenizer, "")
    library.add_tokens([AddedToken("title")])
    monkeypatch.setattr(tokenizer_text, "_unknown", lambda tokenizer: library.token_to_id("title"))
    text = write(tmp_path, train=BOOKS["a"]) / "train.txt"
    documents, tokens, unknown = tokenizer_text.binarize(text, np.array([0, 3]), tmp_path / "train", library, 400, 2)
    parts = lines_of(tmp_path, "train")
    assert [library.decode(part) for part in parts] == [
        "A title.\n\nThe first line.\n",
        "The second.\n",
        "\n\nThe end.\n",
    ]
    assert documents.tolist() == [0, len(parts[0])] and tokens == sum(map(len, parts)) and unknown == 1


def test_tokenizer_level_refuses_what_is_no_tokenizer(data, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    options = ["--tokenizer", tmp_path]
    refused(
        r"tokenizer.json cannot be read as a tokenizer", tmp_path / "raw", tmp_path / "new", *options, level="tokenizer"
    )
    refused(r"--dict .* has a tokenizer's tokens", tmp_path / "raw", tmp_path / "new", "--dict", data / "dict.txt")
    small_tokenizer.write(tmp_path, "other text", special=(END, "more"))
    refused(
        r"was made with other .*tokenizer", tmp_path / "raw", data, "--documents", "file", *options, level="tokenizer"
    )


def test_load_tokenizer_names_the_extra_that_is_missing(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"--tokenizer x needs tokenizers, .*; run: pip install '\.\[hf\]'"):
        load_tokenizer(tokenizer, "--tokenizer x")
