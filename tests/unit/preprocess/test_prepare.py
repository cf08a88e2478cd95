"""Raw text → data folder: every count and every offset against the binarised tokens."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fairseq.data import Dictionary
from preparing import TRAIN, VALID, documents_of, lines_of, refused, run, stats, write
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

# ---- words ----------------------------------------------------------------------------------------------------------


def test_word_level_counts_and_numbers_words(tmp_path: Path) -> None:
    run(write(tmp_path / "raw", train=TRAIN, valid=VALID + "unseen words\n", test=VALID), tmp_path / "out")
    found = stats(tmp_path / "out")
    assert found["level"] == "word" and found["documents_rule"] is None
    assert found["splits"]["train"] == {
        "documents": 1,
        "lines": 3,
        "words": 16,
        "bytes": len(TRAIN.encode()),
        "tokens": 16,
        "unknown": 0,
    }
    assert found["splits"]["valid"]["unknown"] == 2
    assert found["dictionary"]["types"] == len({*TRAIN.split(), "</s>"})
    dictionary = Dictionary.load(str(tmp_path / "out" / "dict.txt"))
    assert found["dictionary"]["size"] == len(dictionary)
    train = lines_of(tmp_path / "out", "train")
    assert train[1] == [dictionary.eos()]
    assert train[2][2] == dictionary.unk()
    assert [dictionary[token] for token in train[0]] == ["the", "cat", "sat", "on", "the", "mat", ".", "</s>"]
    assert lines_of(tmp_path / "out", "valid")[1] == [dictionary.unk(), dictionary.unk(), dictionary.eos()]


def test_word_level_equals_fairseq_preprocess_with_any_number_of_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    words = np.array(["a", "bé", "日本", "<unk>", "\n", "\n \n", "d😀"])
    raw = write(tmp_path / "raw", train=" ".join(rng.choice(words, 5000)) + "\n", valid="a a\n")
    run(raw, tmp_path / "one")
    run(raw, tmp_path / "three", "--workers", 3)
    from fairseq_cli import preprocess

    parser = preprocess.options.get_preprocessing_parser()
    pairs = ["--trainpref", raw / "train.txt", "--validpref", raw / "valid.txt", "--destdir", tmp_path / "fairseq"]
    preprocess.main(parser.parse_args(["--only-source", *map(str, pairs)]))
    for name in ("dict.txt", "train.bin", "train.idx", "valid.bin", "valid.idx"):
        expected = (tmp_path / "fairseq" / name).read_bytes()
        assert (tmp_path / "one" / name).read_bytes() == expected
        assert (tmp_path / "three" / name).read_bytes() == expected


def test_vocab_size_keeps_the_most_frequent_words(tmp_path: Path) -> None:
    run(write(tmp_path / "raw", train=TRAIN, valid=VALID), tmp_path / "out", "--vocab-size", 6)
    symbols = Dictionary.load(str(tmp_path / "out" / "dict.txt")).symbols
    assert symbols[:6] == ["<s>", "<pad>", "</s>", "<unk>", "the", "cat"]
    assert stats(tmp_path / "out")["dictionary"]["types"] == 4


def test_lines_end_at_lf_and_crlf_only(tmp_path: Path) -> None:
    train = "\ufeffa\r\nb\nc\u2028d\x85e\x0cf\rg\r\n\r\nh".encode()
    run(write(tmp_path / "raw", train=train, valid="a"), tmp_path / "out")
    assert documents_of(tmp_path / "out", "train") == ["a\nb\nc d e f g\n\nh\n"]
    assert stats(tmp_path / "out")["splits"]["train"]["bytes"] == len("a\nb\nc\u2028d\x85e\x0cf g\n\nh\n".encode())
    assert stats(tmp_path / "out")["splits"]["valid"] == {
        "documents": 1,
        "lines": 1,
        "words": 2,
        "bytes": 2,
        "tokens": 2,
        "unknown": 0,
    }


def test_byte_order_marks_are_removed_where_files_were_joined(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train="\ufeffa b\n\ufeffa b\nc \ufeff d\n", valid="a")
    run(raw, tmp_path / "out")
    assert documents_of(tmp_path / "out", "train") == ["a b\na b\nc \ufeff d\n"]  # WikiText-2 has some as words
    (tmp_path / "dict.txt").write_text("\ufeffa 2\nb 2\n", encoding="utf-8")
    refused("starts with a byte order mark", raw, tmp_path / "more", "--dict", tmp_path / "dict.txt")


def test_dict_reuses_a_dictionary(tmp_path: Path) -> None:
    run(write(tmp_path / "raw", train=TRAIN, valid=VALID), tmp_path / "out")
    other = write(tmp_path / "other", train="the bird sat\n", valid="sat\n")
    run(other, tmp_path / "more", "--dict", tmp_path / "out" / "dict.txt")
    assert stats(tmp_path / "more")["dictionary"] == stats(tmp_path / "out")["dictionary"]
    assert stats(tmp_path / "more")["splits"]["train"]["unknown"] == 1


def test_words_that_fairseq_reserves_are_refused(tmp_path: Path) -> None:
    refused("contains the word <pad>", write(tmp_path / "raw", train="a <pad> b\n", valid="a\n"), tmp_path / "out")


# ---- documents ------------------------------------------------------------------------------------------------------


def test_documents_wikitext_starts_one_at_each_title(tmp_path: Path) -> None:
    articles = [
        " \n = First = \n \n text = \n \n = = Section = = \n \n = not a title = \n = 1 = 1 = \n \n",
        " = Second = = \n \n",  # not a title either: one "=" before, two behind
        " = Third title = \n \n end \n",
    ]
    raw = write(tmp_path / "raw", train="".join(articles), valid="text\n\n = First = \n\n = Third = \n")
    run(raw, tmp_path / "out", "--documents", "wikitext")
    first, third = documents_of(tmp_path / "out", "train")
    assert first.startswith("\n= First =\n\ntext =\n") and first.endswith("= Second = =\n\n")
    assert third == "= Third title =\n\nend\n"
    assert documents_of(tmp_path / "out", "valid") == ["text\n\n", "= First =\n\n", "= Third =\n"]


def wikitext(seed: int, articles: int) -> list[str]:
    """The lines of articles in the form of WikiText: titles, headings, paragraphs of rare and frequent words."""
    rng = np.random.default_rng(seed)
    lines = []
    for title in range(articles):
        lines += ["", f"= Title {title} =", ""]
        for section in range(5):
            words = rng.zipf(1.5, (2, rng.integers(5, 80))) % 5000
            paragraphs = [" ".join(["<unk>" if word == 1 else f"w{word}" for word in line]) for line in words]
            lines += [*paragraphs, "", f"= = Section {section} @-@ é = =", ""]
    return [f" {line} " for line in lines]


def test_documents_wikitext_counts_a_whole_corpus(tmp_path: Path) -> None:
    splits = {split: wikitext(seed, articles) for seed, split, articles in ((1, "train", 150), (2, "valid", 20))}
    raw = write(tmp_path / "raw", **{split: "\n".join(lines) + "\n" for split, lines in splits.items()})
    run(raw, tmp_path / "out", "--documents", "wikitext")
    words = {split: [line.split() for line in lines] for split, lines in splits.items()}
    types = {word for line in words["train"] for word in line}
    counts = stats(tmp_path / "out")
    for split, articles in (("train", 150), ("valid", 20)):
        total = sum(len(line) + 1 for line in words[split])
        assert counts["splits"][split] == {
            "documents": articles,
            "lines": len(words[split]),
            "words": total,
            "bytes": len("\n".join([*splits[split], ""]).encode()),
            "tokens": total,
            "unknown": sum(word not in types for line in words[split] for word in line),
        }
    assert counts["splits"]["train"]["unknown"] == 0 and counts["splits"]["train"]["words"] > 60_000
    assert counts["dictionary"]["types"] == len(types | {"<unk>", "</s>"})


def test_documents_blank_line_starts_one_after_each_blank_line(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train="\n \na\nb\n\n\nc\n \t \nd e\n\n", valid="a")
    run(raw, tmp_path / "out", "--documents", "blank-line")
    assert documents_of(tmp_path / "out", "train") == ["\n\na\nb\n\n\n", "c\n\n", "d e\n\n"]
    assert documents_of(tmp_path / "out", "valid") == ["a\n"]
    # The offsets move no token.
    run(raw, tmp_path / "without")
    assert (tmp_path / "out" / "train.bin").read_bytes() == (tmp_path / "without" / "train.bin").read_bytes()
    assert np.load(tmp_path / "without" / "train.documents.npy").tolist() == [0]


def test_documents_blank_line_counts_characters_without_width_as_blank(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train="a\n\u200b\nb\u200d c\n \ufeff\u2060\xad \u3000\nd\n", valid="a")
    run(raw, tmp_path / "out", "--documents", "blank-line")
    assert documents_of(tmp_path / "out", "train") == ["a\n\u200b\n", "b\u200d c\n\ufeff\u2060\xad\n", "d\n"]


@pytest.mark.parametrize("level", ["word", "sentencepiece"])
def test_documents_endoftext_ends_one_at_each_mark(tmp_path: Path, level: str) -> None:
    end = "<|endoftext|>\n"
    train = f"{end}a b\r\n\nc\n{end}{end.replace(chr(10), chr(13) + chr(10))}d\n{end}\n{end}e f\n{end}"
    raw = write(tmp_path / "raw", train=train, valid=f"a\n{end}b")
    without = write(tmp_path / "without", train="a b\n\nc\nd\n\ne f\n", valid="a\nb\n")
    options = ("--vocab-size", 268) if level == "sentencepiece" else ()
    run(raw, tmp_path / "out", "--documents", "endoftext", *options, level=level)
    run(without, tmp_path / "plain", *options, level=level)
    assert lines_of(tmp_path / "out", "train") == lines_of(tmp_path / "plain", "train")
    sizes = [len(line) for line in lines_of(tmp_path / "out", "train")]
    starts = np.load(tmp_path / "out" / "train.documents.npy")
    assert starts.tolist() == [sum(sizes[:line]) for line in (0, 3, 4, 5)]
    counts, plain = stats(tmp_path / "out")["splits"]["train"], stats(tmp_path / "plain")["splits"]["train"]
    assert counts == plain | {"documents": 4}


def test_documents_file_makes_one_of_each_file(tmp_path: Path) -> None:
    train = {"0": "", "b.md": "b\n\nb", "a.md": "\na\n", "c": "", "d": "d\r\n", "e": "", ".hidden": b"\xff"}
    run(write(tmp_path / "raw", train=train, valid={"a": "a"}), tmp_path / "out", "--documents", "file")
    assert documents_of(tmp_path / "out", "train") == ["\na\n", "b\n\nb\n", "d\n"]


def test_documents_refuses_a_rule_that_does_not_fit(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train=TRAIN, valid=VALID)
    refused("no line ' = Title = '", raw, tmp_path / "out", "--documents", "wikitext")
    refused("needs folders, but train is the file", raw, tmp_path / "out", "--documents", "file")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


# ---- sentencepiece --------------------------------------------------------------------------------------------------

WORDS = ["".join(syllables) for syllables in product(["me", "mo", "ry", "in", "fi", "ni", "te", "ba"], repeat=3)]
ODD = [
    " ",
    "  two  spaces ",
    "½ … ﬁ\ttab",
    "日本 😀",
    "a <unk> b<unk>",
    "<s> </s> <pad> <0x41>",
    "nul \0",
    "x\u2028",
    "",
]


def prose(seed: int, lines: int = 300) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 8)) + " ." for _ in range(lines)]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_level_decodes_to_the_text(tmp_path: Path, model_type: str) -> None:
    train, valid = [*prose(1), *ODD], [*prose(2, 5), *ODD, "the end"]
    raw = write(tmp_path / "raw", train="\n".join(train) + "\n", valid="\n".join(valid) + "\n")
    options = ("--vocab-size", 320, "--documents", "blank-line", "--model-type", model_type)
    run(raw, tmp_path / "out", *options, level="sentencepiece")
    processor = SentencePieceProcessor(model_file=str(tmp_path / "out" / "sentencepiece.model"))
    dictionary = Dictionary.load(str(tmp_path / "out" / "dict.txt"))
    assert dictionary.symbols == [processor.id_to_piece(number) for number in range(320)]
    for split, text in (("train", train), ("valid", valid)):
        lines = lines_of(tmp_path / "out", split)
        assert all(line[-1] == dictionary.eos() and dictionary.pad() not in line for line in lines)
        assert [processor.decode(line[:-1]) for line in lines] == text
        counts = stats(tmp_path / "out")["splits"][split]
        assert counts["tokens"] == sum(map(len, lines))
        assert counts["words"] == sum(len(line.split()) + 1 for line in text)
        assert counts["bytes"] == len("\n".join(text).encode()) + 1
        assert counts["unknown"] == 0
    assert sum(token == dictionary.unk() for line in lines for token in line) == 2
    offsets = np.load(tmp_path / "out" / "valid.documents.npy")
    # A line of spaces is blank, though it has tokens.
    starts = [sum(map(len, lines[: valid.index(line)])) for line in ("  two  spaces ", "the end")]
    assert offsets.tolist() == [0, *starts]

    run(raw, tmp_path / "again", *options, "--workers", 2, level="sentencepiece")
    for file in (tmp_path / "out").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_sentencepiece_model_reuses_a_model(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train="\n".join(prose(1)), valid="\n".join(prose(2, 5)))
    run(raw, tmp_path / "out", "--vocab-size", 300, level="sentencepiece")
    model, dictionary = tmp_path / "out" / "sentencepiece.model", tmp_path / "out" / "dict.txt"
    other = write(tmp_path / "other", train="other text\n", valid="more\n")
    for name, options in (("a", ()), ("b", ("--dict", dictionary))):
        run(other, tmp_path / name, "--sentencepiece-model", model, *options, level="sentencepiece")
        assert (tmp_path / name / "dict.txt").read_bytes() == dictionary.read_bytes()
        assert (tmp_path / name / "sentencepiece.model").read_bytes() == model.read_bytes()
        processor = SentencePieceProcessor(model_file=str(model))
        assert processor.decode(lines_of(tmp_path / name, "train")[0][:-1]) == "other text"

    # A dictionary of other ids, which lacks some pieces: what it lacks is <unk>, and counted.
    symbols = dictionary.read_text().splitlines()
    (tmp_path / "few.txt").write_text("\n".join(line for line in symbols[::-1] if not line.startswith("t ")) + "\n")
    options = ("--sentencepiece-model", model, "--dict", tmp_path / "few.txt")
    run(write(tmp_path / "t", train="ttt\n", valid="a\n"), tmp_path / "c", *options, level="sentencepiece")
    assert stats(tmp_path / "c")["splits"]["train"]["unknown"] == 3

    (tmp_path / "none.txt").write_text("word 1\n")
    options = ("--sentencepiece-model", model, "--dict", tmp_path / "none.txt")
    refused("lacks 29. of the 300 pieces", other, tmp_path / "d", *options, level="sentencepiece")


def test_vocab_size_refuses_what_the_text_cannot_fill(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train="\n".join(prose(1)), valid=VALID)
    refused("too large .* at most [0-9]+", raw, tmp_path / "out", "--vocab-size", 5000, level="sentencepiece")
    refused("too small .* at least [0-9]+", raw, tmp_path / "out", "--vocab-size", 100, level="sentencepiece")
    assert not (tmp_path / "out").exists()
    # The text need not be read again for another size.
    run(raw, tmp_path / "out", "--vocab-size", 300, "--stage", 2, level="sentencepiece")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_level_loses_no_line_to_a_character(tmp_path: Path, model_type: str) -> None:
    """sentencepiece skips training lines with U+2585, which it writes for unknown characters."""
    options = ("--vocab-size", 330, "--model-type", model_type)
    for name, sign in (("reserved", "\u2585"), ("plain", "x")):
        text = "".join(f"{line} {sign}\n" for line in prose(1))
        run(write(tmp_path / name, train=text, valid=text), tmp_path / f"{name}-out", *options, level="sentencepiece")
    tokens = [stats(tmp_path / f"{name}-out")["splits"]["valid"]["tokens"] for name in ("reserved", "plain")]
    assert tokens[0] <= 1.05 * tokens[1]  # the sign takes one place of the vocabulary
    processor = SentencePieceProcessor(model_file=str(tmp_path / "reserved-out" / "sentencepiece.model"))
    assert processor.decode(lines_of(tmp_path / "reserved-out", "valid")[0][:-1]) == f"{prose(1)[0]} \u2585"


@pytest.mark.parametrize("text", ["<unk>\n", "\u2585 <unk>\n"])
def test_sentencepiece_level_refuses_a_text_without_anything_to_learn(tmp_path: Path, text: str) -> None:
    raw = write(tmp_path / "raw", train=text, valid="a")
    refused("only <unk>.*, from which sentencepiece cannot learn", raw, tmp_path / "out", level="sentencepiece")


def test_sentencepiece_model_refuses_pads_as_text(tmp_path: Path) -> None:
    settings = {"model_prefix": tmp_path / "own", "vocab_size": 330, "byte_fallback": True, "minloglevel": 2}
    for symbols, pad in (("<pad>", -1), ("", 3)):  # as text, and as a sign that no text has
        SentencePieceTrainer.train(
            sentence_iterator=iter(prose(1)), user_defined_symbols=symbols, pad_id=pad, **settings
        )
        raw = write(tmp_path / f"raw{pad}", train="a <pad> b\n", valid="a\n")
        given = (raw, tmp_path / f"out{pad}", "--sentencepiece-model", tmp_path / "own.model")
        if symbols:
            refused("has an ordinary piece <pad>, which fairseq reserves", *given, level="sentencepiece")
        else:
            run(*given, level="sentencepiece")
            assert all(Dictionary().pad() not in line for line in lines_of(tmp_path / f"out{pad}", "train"))


@pytest.mark.parametrize("level", ["word", "sentencepiece"])
def test_long_lines_are_prepared_and_learned_from(tmp_path: Path, level: str) -> None:
    train = " ".join(prose(1, 10_000)) + "\n" + "x" * 300_000 + "\n"
    options = ("--vocab-size", 340) if level == "sentencepiece" else ()
    run(write(tmp_path / "raw", train=train, valid=VALID), tmp_path / "out", *options, level=level)
    counts = stats(tmp_path / "out")["splits"]["train"]
    assert (counts["lines"], counts["words"], counts["bytes"]) == (2, len(train.split()) + 2, len(train))
    if level == "sentencepiece":
        processor = SentencePieceProcessor(model_file=str(tmp_path / "out" / "sentencepiece.model"))
        line = lines_of(tmp_path / "out", "train")[0]
        assert processor.decode(line[:-1]) + "\n" == train[: train.index("\n") + 1]
        # The model has learned from it: 256 of its pieces are bytes, yet a piece covers two characters on average.
        assert len(line) < 0.6 * train.index("\n")
