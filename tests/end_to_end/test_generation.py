"""fairseq-generate and fairseq-interactive with models of streams: the words of infformer-generate, and its prompts."""

import copy
import re

import pytest
import torch
from command_line import TASK, one_error, run_here
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.sequence_generator import SequenceGenerator
from fairseq_cli import generate, interactive
from omegaconf import OmegaConf
from preparing import lines_of

from fairseq_infformer.cli import reading
from fairseq_infformer.cli.generate import build_parser
from fairseq_infformer.cli.generate import generate as continued
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.text_stream import Stream
from fairseq_infformer.plugin.run_checks import check_run

SEGMENT, LENGTH = 16, 12


@pytest.fixture(scope="module")
def reader(documents, trained):
    return reading.load(build_parser().parse_args(["--path", str(trained[0]), "--data", str(documents), "--cpu"]))


@pytest.fixture
def hypotheses(documents, trained, capfd):
    """What a command prints as hypotheses: words and score by number."""

    def run(command, *flags, path=trained[0]):
        arguments = [documents, *TASK, "--path", path, "--tokens-per-sample", SEGMENT, "--num-workers", 0, "--cpu"]
        code, error = run_here(command.cli_main, *arguments, "--min-len", 0, "--max-len-b", LENGTH, *flags)
        out = capfd.readouterr().out
        assert code == 0, error
        found = {}
        for number, score, words in re.findall(r"^D-(\d+)\t(\S+)\t(.*)$", out, re.MULTILINE):
            found.setdefault(int(number), []).append((words, float(score)))
        return found, out

    return run


def greedy(reader, prompt):
    """The most probable words one after the other, up to the end of the line."""
    stream = Stream(reader.model, reader.segment)
    stream.read(torch.tensor([prompt]).long())
    tokens = list(continued(stream, LENGTH, temperature=0))
    return reader.spelling.decode(tokens).partition("\n")[0]


def test_generate_continues_each_document_after_its_prefix(hypotheses, documents, reader):
    lines = lines_of(documents, "test")
    texts = [first + second for first, second in zip(lines[::2], lines[1::2])]
    flags = ["--document-boundaries", "reset", "--prefix-size", 45, "--beam", 1]
    found, out = hypotheses(generate, *flags)
    assert {number: words for number, [(words, _)] in found.items()} == {
        number: greedy(reader, text[:45]) for number, text in enumerate(texts)
    }
    for number, text in enumerate(texts):
        assert f"S-{number}\t{reader.spelling.decode(text[:45])}\n" in out
        assert f"T-{number}\t{reader.spelling.decode(text[45 : 45 + LENGTH]).partition(chr(10))[0]}\n" in out


def test_interactive_continues_prompts_of_no_one_and_many_words_in_a_batch(hypotheses, reader, tmp_path):
    """By beam search as with each alone, by sampling from the best word alone as one after the other."""
    words = reader.model.decoder.dictionary.symbols[4:]
    prompts = [" ".join((words * 2)[:count]) for count in (60, 0, 1)]
    (tmp_path / "prompts").write_text("".join(f"{prompt}\n" for prompt in prompts))
    batch = ["--input", tmp_path / "prompts", "--buffer-size", 3, "--batch-size", 3]
    best = {number: greedy(reader, reader.spelling.encode(prompt)) for number, prompt in enumerate(prompts)}
    for chosen in (["--sampling-topk", 1], ["--sampling-topp", 1e-9]):
        found, _ = hypotheses(interactive, *batch, "--sampling", *chosen, "--beam", 2, "--nbest", 2)
        assert {number: [words for words, _ in each] for number, each in found.items()} == {
            number: [best[number]] * 2 for number in best
        }

    beams, _ = hypotheses(interactive, *batch, "--beam", 3, "--nbest", 3)
    dictionary, prompted = reader.model.decoder.dictionary, reader.model.prompted(SEGMENT)
    generator = SequenceGenerator([prompted], dictionary, beam_size=3, min_len=0, max_len_b=LENGTH)
    for number, prompt in enumerate(prompts):
        tokens = torch.tensor([reader.spelling.encode(prompt)]).long()
        prompted.read(tokens, torch.tensor([tokens.shape[1]]))
        [alone] = generator.generate([prompted], {"net_input": {"src_tokens": tokens}})
        assert [words for words, _ in beams[number]] == [dictionary.string(each["tokens"]) for each in alone]
        scores = torch.stack([each["score"] for each in alone]) / torch.tensor(2.0).log()
        torch.testing.assert_close(torch.tensor([score for _, score in beams[number]]), scores, rtol=1e-4, atol=1e-5)


def test_interactive_averages_several_models(hypotheses, trained, tmp_path):
    (tmp_path / "prompts").write_text("w00\tw01\n")  # any white space is between words
    flags = ["--input", tmp_path / "prompts", "--beam", 2, "--nbest", 2]
    one, out = hypotheses(interactive, *flags, "--post-process", "subword_nmt")
    assert "S-0\tw00 w01\n" in out and len(one[0][0][0].split()) > 0 and "unk" not in out
    two, _ = hypotheses(interactive, *flags, path=f"{trained[0]}:{trained[0]}")
    for (words, score), (again, other) in zip(one[0], two[0], strict=True):
        assert words == again and score == pytest.approx(other, rel=1e-5)


MISTAKES = {
    generate: [
        ("task._name", "language_modeling", "reads streams of text; give --task streaming_language_modeling"),
        ("task.tokens_per_sample", 8, "was trained in segments of 16 tokens, not of 8; give --tokens-per-sample 16"),
        ("task.data", "here:there", "fairseq-generate would read only here of here:there; give one folder"),
        ("common_eval.path", "none.pt", "--path none.pt does not exist; give a checkpoint that does"),
        ("common_eval.path", None, "--path is missing; give the checkpoint of a model"),
        ("generation.prefix_size", 0, "--prefix-size is missing; give the number of tokens of each document"),
        ("generation.sampling", True, "--sampling needs --nbest as large as --beam, 5, got 1"),
        ("generation.beam", 0, "--beam must be 1 or more, got 0"),
        ("generation.min_len", 201, "--min-len must be --max-len-b, 200, or less, got 201"),
        ("generation.score_reference", True, "--score-reference is not supported for models of streams; leave it out"),
        ("generation.constraints", "ordered", "--constraints is not supported for models of streams; leave it out"),
        ("dataset.batch_size", 0, "--batch-size must be 1 or more, got 0"),
    ],
    interactive: [
        ("task._name", "translation", "reads streams of text; give --task streaming_language_modeling"),
        ("dataset.batch_size", 2, "--batch-size 2 needs --buffer-size 2 or more"),
        ("interactive.input", "none.txt", "--input none.txt does not exist; give a text file, or leave it out to type"),
    ],
}


@pytest.mark.parametrize("command", MISTAKES)
def test_check_run_names_what_generation_cannot_do(command, documents, trained):
    name = command.__name__.rpartition(".")[2]
    of = options.get_generation_parser if command is generate else options.get_interactive_generation_parser
    flags = [documents, *TASK, "--path", trained[0], "--tokens-per-sample", SEGMENT, "--prefix-size", 9]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(of(), [str(flag) for flag in flags]))
    check_run(cfg, name)
    for setting, value, message in MISTAKES[command]:
        changed = copy.deepcopy(cfg)
        OmegaConf.set_struct(changed, False)
        OmegaConf.update(changed, setting, value)
        with pytest.raises(InputError) as error:
            check_run(changed, name)
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "language_modeling"], "reads streams of text; give --task streaming_language_modeling"),
        (["--sampling-topk", 3], "--sampling-topk requires --sampling"),
        (["--temperature", 0], "--temperature must be greater than 0"),
        (["--prefix-size", 5000], "--prefix-size 5000 leaves nothing of the documents of split 'test' in"),
        (["--gen-subset", "none"], "has no split 'none'; choose one of test, train, valid"),
    ],
)
def test_generate_refuses_in_one_line(flags, message, documents, trained):
    given = [documents, *TASK, "--path", trained[0], "--tokens-per-sample", SEGMENT, "--prefix-size", 9, "--cpu"]
    code, text = run_here(generate.cli_main, *given, *flags)
    assert code == 1 and message in one_error(text)
