"""infformer-read and infformer-generate: a prompt, a book that was read before, and a model in each of its forms."""

import shutil

import pytest
import torch
from command_line import one_error, run_here
from preparing import lines_of

from fairseq_infformer.cli import evaluate, export, generate, read, reading
from fairseq_infformer.models.text_stream import Stream
from fairseq_infformer.vocabulary_files import load_dictionary


@pytest.fixture(scope="module")
def exported(documents, trained, tmp_path_factory):
    dest = tmp_path_factory.mktemp("exported") / "model"
    export.main([str(part) for part in [documents, "--path", trained[0], "--dest", dest]])
    return dest


@pytest.fixture(scope="module")
def book(documents, tmp_path_factory):
    """The lines of the test documents."""
    dictionary, file = load_dictionary(documents / "dict.txt"), tmp_path_factory.mktemp("book") / "book.txt"
    lines = (" ".join(dictionary[number] for number in line[:-1]) for line in lines_of(documents, "test"))
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


@pytest.fixture
def continued(capsys):
    """What infformer-generate prints."""

    def run(*arguments):
        generate.main([str(argument) for argument in [*arguments, "--cpu"]])
        return capsys.readouterr().out

    return run


def tokens_of(documents, split):
    return [number for line in lines_of(documents, split) for number in line]


def words(documents, count):
    """The dictionary's first words, in one line."""
    return " ".join(load_dictionary(documents / "dict.txt").symbols[4 : 4 + count])


def test_generate_prints_the_most_probable_words_of_a_checkpoint_and_its_exported_folder(
    documents, trained, exported, continued
):
    prompt, chosen = words(documents, 5), ["--max-tokens", 40, "--temperature", 0]
    out = continued("--path", exported, "--prompt", prompt, *chosen)
    assert out == continued("--path", trained[0], "--data", documents, "--prompt", prompt, *chosen)

    reader = reading.load(read.build_parser().parse_args(["book", "--save", "m", "--path", str(exported), "--cpu"]))
    tokens = [reader.model.decoder.dictionary.eos(), *reader.spelling.encode(prompt)]
    for _ in range(40):  # each word after a pass over the whole text
        logits = [reader.model(part, segment=number)[0] for number, part in enumerate(segments(tokens, reader.segment))]
        last = logits[-1][0, -1].clone()
        last[:2] = -torch.inf
        tokens.append(int(last.argmax()))
    assert prompt + out == reader.spelling.decode(tokens[1:]) + "\n"


def segments(tokens, length):
    return torch.tensor([tokens]).split(length, dim=1)


def test_generate_continues_from_a_memory_as_after_the_book(documents, exported, book, tmp_path, capsys, continued):
    read.main([str(part) for part in [book, "--save", tmp_path / "book.memory", "--path", exported, "--cpu"]])
    assert f"{len(tokens_of(documents, 'test'))} tokens read" in capsys.readouterr().out
    chosen = ["--path", exported, "--prompt", "w", "--max-tokens", 30]
    after = continued(*chosen, "--prompt-file", book)
    assert continued(*chosen, "--memory", tmp_path / "book.memory") == after != continued(*chosen)


@torch.no_grad()
def test_infformer_eval_scores_a_text_after_a_memory(documents, exported, tmp_path):
    """As a stream reads it, if what was read ends with a segment."""
    arguments = [str(documents), "--path", str(exported), "--document-boundaries", "ignore", "--cpu"]
    reader = reading.load(read.build_parser().parse_args(["book", "--save", "m", "--path", str(exported), "--cpu"]))
    eos, known = reader.model.decoder.dictionary.eos(), 5 * reader.segment
    book, text = tokens_of(documents, "valid")[: known - 1], tokens_of(documents, "test")
    stream = Stream(reader.model, reader.segment)
    stream.read(torch.tensor([book]))
    stream.save(tmp_path / "valid.memory")
    parts = segments([eos, *book, eos, *text[:-1]], reader.segment)
    logits = torch.cat([reader.model(part, segment=number)[0][0] for number, part in enumerate(parts)])[known:]
    loss = float(torch.nn.functional.cross_entropy(logits, torch.tensor(text), reduction="sum"))

    def scored(*more):
        return evaluate.evaluate(evaluate.build_parser().parse_args([*arguments, *map(str, more)]))["nll"]

    # Sums of some 800 terms of about one size in float32.
    assert scored("--memory", tmp_path / "valid.memory") == pytest.approx(loss, rel=1e-5)
    assert scored() != pytest.approx(loss, rel=1e-4)
    several = scored("--memory", tmp_path / "valid.memory", "--batch-size", 3)
    assert several != pytest.approx(loss, rel=1e-4)

    memory = ["--memory", tmp_path / "valid.memory"]
    for flags, message in [
        (["--memory", "none"], "--memory none does not exist; write it with infformer-read"),
        ([*memory, "--stm-length", 4], "--stm-length 4 cannot be combined with --memory; leave one out"),
        ([*memory, "--document-boundaries", "reset"], "give --document-boundaries ignore with it"),
        ([*memory, "--tokens-per-sample", 8], "was read in segments of 16 tokens"),
    ]:
        code, text = run_here(evaluate.main, *arguments, *flags)
        assert code == 1 and message in one_error(text)


def test_generate_repeats_for_a_seed_and_starts_a_text_without_a_prompt(exported, continued):
    first, again, other = (
        continued("--path", exported, "--max-tokens", 20, "--top-p", 1, "--seed", seed) for seed in (1, 1, 2)
    )
    assert first == again != other and len(first.split()) + first.count("\n") - 1 == 20


def test_choose_samples_only_the_most_probable_words_with_their_share():
    log_probs = torch.tensor([[0.5, 0.05, 0.3, 0.15]]).log().expand(4000, -1)
    counts = generate.choose(log_probs, 1.0, 0.79, torch.Generator().manual_seed(0)).bincount(minlength=4) / 4000
    # Of 4,000 draws a share of 5/8 has a standard deviation of 0.8 %.
    torch.testing.assert_close(counts, torch.tensor([0.625, 0, 0.375, 0]), atol=0.04, rtol=0)
    assert generate.choose(log_probs[:1], 0, 1.0, torch.Generator()).tolist() == [0]
    cold = generate.choose(log_probs, 0.05, 1.0, torch.Generator().manual_seed(0))
    assert (cold == 0).float().mean() > 0.99
    assert not generate.choose(log_probs, 5e-324, 1.0, torch.Generator()).any()


def test_text_of_has_the_lines_of_a_training_text(tmp_path):
    (tmp_path / "book.txt").write_bytes("\ufeffw1 w2\r\nw3\rw4\n\nw5".encode())
    assert reading.text_of(tmp_path / "book.txt", "BOOK") == "w1 w2\nw3 w4\n\nw5"
    (tmp_path / "book.txt").write_bytes(b"w1\n")
    assert reading.text_of(tmp_path / "book.txt", "BOOK") == "w1\n"


def test_generate_takes_a_pretrained_model_and_stops_at_its_end_of_text(tmp_path, continued):
    pytest.importorskip("transformers")
    from pretrained_data import write_model
    from transformers import AutoModelForCausalLM

    from fairseq_infformer.pretrained import attach

    base, folder = write_model(tmp_path / "base"), tmp_path / "attached"
    model = attach(AutoModelForCausalLM.from_pretrained(base), "compressive", segment=8, length=6, rate=2)
    model.save_pretrained(folder)
    shutil.copy(base / "tokenizer.json", folder)
    chosen = ["--path", folder, "--prompt", "Line 1 of book 2.\n", "--temperature", 0, "--max-tokens", 20]
    out = continued(*chosen)
    reader = reading.load(read.build_parser().parse_args(["book", "--save", "m", "--path", str(folder), "--cpu"]))
    ids, known = reader.spelling.encode("Line 1 of book 2.\n"), reader.model.decoder.dictionary.num_tokens
    prompt = torch.tensor([[model.config.start_token, *ids]])
    no_words = list(range(known, model.config.text_config.vocab_size))
    arguments = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "suppress_tokens": no_words}
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), **arguments)[
        0, prompt.shape[1] :
    ].tolist()
    # A character that is still incomplete is not printed.
    assert out == reader.spelling.decode(expected).rstrip("\ufffd") + "\n"

    reader.model.decoder.model.config.text_config.eos_token_id = expected[7]
    stream = Stream(reader.model, reader.segment)
    stream.read(prompt[:, 1:])
    assert list(generate.generate(stream, 20, temperature=0)) == expected[: expected.index(expected[7])]


WRONG = [
    (["--max-tokens", 0], "--max-tokens must be 1 or more, got 0"),
    (["--temperature", -1], "--temperature must be 0 or more, got -1.0"),
    (["--top-p", 0], "--top-p must lie in (0, 1], got 0.0"),
    (["--seed", -1], "--seed must lie in 0.."),
    (["--memory", "none.memory"], "--memory none.memory does not exist; write it with infformer-read"),
    (["--prompt-file", "none.txt"], "--prompt-file none.txt cannot be read (No such file or directory)"),
    (["--path", "none"], "--path none does not exist; give a checkpoint or a folder that does"),
    (["--data", "data"], "is a folder that has its own words; leave --data out"),
    (["--ema"], "holds one set of weights; leave --ema out"),
    (["--user-dir", "none"], "--user-dir none is not a folder"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_generate_refuses(flags, message, exported):
    code, text = run_here(generate.main, "--path", exported, "--cpu", *flags)
    assert code == 1 and message in one_error(text)


def test_generate_refuses_a_checkpoint_without_data_and_other_files(trained, documents, book, tmp_path):
    for arguments, message in [
        (["--path", trained[0]], "is a checkpoint, which has no words; give --data with its data folder"),
        (["--path", trained[0], "--data", "none"], "none/dict.txt does not exist"),
        (["--path", documents], "is not a folder with a config.json"),
        (["--path", book, "--data", documents], "is truncated or is not a fairseq checkpoint"),
        (["--path", trained[0], "--data", documents, "--memory", book], "cannot be read"),
        (["--path", trained[0], "--data", documents, "--prompt-file", trained[0]], "is not UTF-8"),
    ]:
        code, text = run_here(generate.main, "--cpu", *arguments)
        assert code == 1 and message in one_error(text), message


def test_read_refuses_what_it_cannot_read_or_write(exported, book, tmp_path):
    for text_file, save, message in [
        ("none.txt", tmp_path / "m", "BOOK none.txt cannot be read"),
        (book, tmp_path / "none" / "m", "cannot be written; give a file in a folder that exists"),
        (book, tmp_path, "cannot be written; give a file in a folder that exists"),
    ]:
        code, text = run_here(read.main, text_file, "--save", save, "--path", exported, "--cpu")
        assert code == 1 and message in one_error(text)
    assert not list(tmp_path.iterdir())
