"""--arch infinite_former_pretrained: what ``pretrained.attach`` makes, in fairseq."""

import json
import re
import shutil
import sys
from types import SimpleNamespace
from unittest import mock

import pytest

pytest.importorskip("transformers")

import numpy as np
import preparing
import small_tokenizer
import torch
from command_line import TASK, eval_lm, one_error, perplexity, run_here
from fairseq_cli import generate, train
from omegaconf import OmegaConf
from pretrained_data import BOOKS, FLAGS, GIBBS, SEGMENT, built, prepare, write_model
from small_pretrained import base, close
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from fairseq_infformer.cli import evaluate, export, reading
from fairseq_infformer.cli import generate as generating
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.pretrained_lm import PretrainedConfig
from fairseq_infformer.models.text_stream import Stream
from fairseq_infformer.pretrained import attach
from fairseq_infformer.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

COMPRESSIVE = ["--long-term-memory", "compressive", "--compressive-length", 6, "--compressive-rate", 2]
IN_PYTHON = {"basis": 16, "widths": (0.05, 0.2), "samples": 32, "density": "gibbs"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def data(llama, tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("corpus"), llama)


def open_gates(model):
    for gated in model.memories.values():
        torch.nn.init.constant_(gated.gate, 0.7 / gated.scale)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    ("architecture", "flags"),
    [("llama", GIBBS), ("llama", COMPRESSIVE), ("llama", ["--long-term-memory", "none"]), ("gpt2", GIBBS)],
)
def test_decoder_has_the_logits_of_the_attached_model_for_each_document(architecture, flags, data, tmp_path):
    """Rows end their documents in the middle of segments, and start others."""
    trainer, batches = built(data, "--pretrained", write_model(tmp_path / "model", architecture=architecture), *flags)
    model, special = trainer.get_model().eval(), trainer.task.dictionary.num_tokens
    attached = open_gates(model.decoder.model)
    texts, logits, current = [], [], {}
    for sample in batches:
        found, _ = model(**sample["net_input"])
        for row, length in enumerate(sample["net_input"]["lengths"]):
            if sample["net_input"]["reset"][row]:
                current[row] = len(texts)
                texts.append([])
                logits.append([])
            read = sample["net_input"]["src_tokens"][row, :length]
            texts[current[row]] += read.masked_fill(read >= special, 0).tolist()
            logits[current[row]].append(found[row, :length])
    assert len(texts) >= len(BOOKS) and max(map(len, texts)) > 4 * SEGMENT
    for text, found in zip(texts, logits):
        close(torch.cat(found), attached(torch.tensor([text])).logits[0])


class Documents(torch.utils.data.IterableDataset):
    """The batches of fairseq in the Trainer, as texts with their first token."""

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        for sample in self.samples:
            for row in torch.nn.functional.pad(sample["target"], (1, 0)):  # 0 begins a text
                yield {"input_ids": row, "labels": row}


def test_training_gives_the_losses_and_weights_of_the_trainer(llama, tmp_path):
    """On the same documents, four segments each, in four updates."""
    words = ["cat", "dog", "mat", "the", "on", "sat", "is", "a"]
    text = "".join(f" {words[(number * number + 3 * number) % 8]}" for number in range(400))
    folder = write_model(tmp_path / "llama", text)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[: 8 * 4 * SEGMENT]
    decode = Tokenizer.from_file(str(folder / "tokenizer.json")).decode
    books = {str(n): decode(ids[n * 4 * SEGMENT + 1 : (n + 1) * 4 * SEGMENT]) + "\n" for n in range(8)}
    data = prepare(tmp_path, folder, books)
    flags = ["--pretrained", folder, "--bptt-segments", 4, "--optimizer", "sgd", "--lr", 0.1, *GIBBS]
    trainer, batches = built(data, *flags)
    samples = list(batches)
    assert all(sample["ntokens"] == 2 * 4 * SEGMENT for sample in samples) and len(samples) == 4
    losses, forward = [], trainer.criterion.forward

    def noted(model, sample, reduce=True):
        loss, count, log = forward(model, sample, reduce)
        losses.append(float(loss) / count)
        return loss, count, log

    trainer.criterion.forward = noted
    for sample in samples:
        trainer.train_step([sample])

    model = AutoModelForCausalLM.from_pretrained(folder)
    model = attach(model, segment=SEGMENT, bptt_segments=4, **IN_PYTHON)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        max_steps=4,
        per_device_train_batch_size=2,
        optim="sgd",  # Adam moves a weight whose gradient is nearly zero by rounding alone
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    other = Trainer(model, arguments, train_dataset=Documents(samples))
    other.train()
    found = [entry["loss"] for entry in other.state.log_history if "loss" in entry]
    assert found == pytest.approx(losses, rel=1e-5)
    trained = trainer.get_model().decoder.model.state_dict()
    assert losses[-1] < losses[0] - 0.5
    for name, weight in model.state_dict().items():
        close(trained[name], weight)


@pytest.mark.parametrize("flags", [GIBBS, COMPRESSIVE, ["--long-term-memory", "none"]])
def test_criterion_gives_every_parameter_a_gradient_in_the_first_segment(flags, data, llama):
    """DDP waits for all of them."""
    trainer, batches = built(data, "--pretrained", llama, *flags)
    model = trainer.get_model().train()
    trainer.criterion(model, next(batches))[0].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


# ---- commands -------------------------------------------------------------------------------------------------------


def trained(data, save, llama, *more):
    flags = [*FLAGS, *GIBBS, "--save-dir", save, "--disable-validation", "--save-interval-updates", 2]
    code, error = run_here(train.cli_main, data, *flags, "--no-epoch-checkpoints", "--pretrained", llama, *more)
    assert code == 0, error
    return save / "checkpoint_last.pt"


def content(checkpoint):
    return torch.load(checkpoint, weights_only=True)


@pytest.fixture(scope="module")
def checkpoint(data, llama, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("save"), llama, "--max-update", 3)


def scores(data, path, *more):
    with mock.patch.object(sys, "argv", ["infformer-eval", *map(str, [data, "--path", path, "--cpu", *more])]):
        return evaluate.evaluate(evaluate.parse_arguments())


def test_training_resumes_to_the_same_weights_and_memory(data, llama, tmp_path):
    """In the middle of a document."""
    flags = ["--document-boundaries", "ignore", "--max-update"]
    whole = content(trained(data, tmp_path / "whole", llama, *flags, 6))
    trained(data, tmp_path / "parts", llama, *flags, 4)
    parts = content(trained(data, tmp_path / "parts", llama, *flags, 6))
    memory = whole["extra_state"]["train_iterator"]["memory"]
    assert {name.split(".")[2] for name in memory} == {"sinks", "window", "segment", "memory", "report"}
    assert bool(memory["layers.1.memory.coefficients"].any())
    for part in ("model", "last_optimizer_state"):
        torch.testing.assert_close(parts[part], whole[part], rtol=0, atol=0)
    torch.testing.assert_close(parts["extra_state"]["train_iterator"]["memory"], memory, rtol=0, atol=0)


@torch.no_grad()
def test_export_to_hf_loads_in_transformers_with_the_same_scores(data, checkpoint, tmp_path, capsys):
    export.main([str(part) for part in [data, "--path", checkpoint, "--to", "hf", "--dest", tmp_path / "hf"]])
    assert {path.name for path in (tmp_path / "hf").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert len({path.stat().st_mode for path in (tmp_path / "hf").iterdir()}) == 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert model.config.segment == SEGMENT and model.generation_config.bos_token_id == 0
    nll = 0.0
    for book in list(BOOKS.values())[:2]:
        text = torch.tensor([[0, *tokenizer(book).input_ids]])
        nll += float(model(text, labels=text).loss) * (text.shape[1] - 1)
    found = scores(data, checkpoint)
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["perplexity_per_word"] == pytest.approx(np.exp(nll / found["words"]))


def test_export_names_the_format_of_the_model(data, checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"--arch infinite_former_pretrained, whose models .*; give --to hf"):
        export.export(data, str(checkpoint), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_evaluation_needs_no_folder_and_agrees_with_eval_lm(data, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "llama")
    path = trained(data, tmp_path / "save", folder, "--max-update", 3)
    shutil.rmtree(folder)
    figures = scores(data, path)
    done = eval_lm(data, path, "--tokens-per-sample", SEGMENT, "--document-boundaries", "reset")
    assert perplexity(done.stdout) == pytest.approx(figures["perplexity_per_token"], abs=0.01)
    counts = preparing.stats(data)["splits"]["test"]
    assert (figures["tokens"], figures["words"]) == (counts["tokens"], counts["words"])


def test_settings_of_hydra_get_the_configuration_of_the_base(data, llama, tmp_path):
    """fairseq builds the model from a copy of them, and they are what checkpoints have."""
    folder = shutil.copytree(llama, tmp_path / "llama")
    trainer, _ = built(data, "--pretrained", folder)
    model = PretrainedConfig(_name="pretrained_with_memory", pretrained=str(folder), ltm_basis=16, ltm_samples=32)
    cfg = OmegaConf.structured(model)
    trainer.task.build_model(cfg)
    shutil.rmtree(folder)
    again = trainer.task.build_model(cfg, from_checkpoint=True)
    assert again.decoder.model.config.text_config.num_hidden_layers == 2


def test_evaluation_reads_zeroed_and_swapped_memories_and_other_windows(data, checkpoint):
    state = content(checkpoint)
    for name, weight in state["model"].items():
        if name.endswith(".gate"):
            weight.fill_(0.2)
    opened = checkpoint.with_name("opened.pt")
    torch.save(state, opened)
    figures = [
        scores(data, opened, "--batch-size", 2, "--split", "train", *more)["nll"]
        for more in ([], ["--ablation", "zero"], ["--ablation", "swap"], ["--stm-length", 2], ["--stm-length", 8])
    ]
    assert len(set(figures)) == 4 and figures[0] == figures[4]


def test_bptt_replay_gives_the_same_gradients(data, llama):
    found = []
    for more in ([], ["--bptt-replay"]):
        trainer, batches = built(data, "--pretrained", llama, "--bptt-segments", 3, *GIBBS, *more)
        model = trainer.get_model().train()
        open_gates(model.decoder.model)
        for _, sample in zip(range(2), batches):
            trainer.criterion(model, sample)[0].backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    close(*found)


def test_model_saved_in_half_precision_trains_from_float32(data, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "llama")
    AutoModelForCausalLM.from_pretrained(llama).bfloat16().save_pretrained(folder)
    trainer, _ = built(data, "--pretrained", folder, *GIBBS)
    assert {parameter.dtype for parameter in trainer.get_model().parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["--bf16", "--fp16"])
def test_half_precision_keeps_what_positions_are_multiplied_with(precision, data, llama):
    trainer, _ = built(data, "--pretrained", llama, *GIBBS)
    decoder = trainer.get_model().decoder
    frequencies = decoder.model.rotary.inv_freq.clone()
    decoder.bfloat16() if precision == "--bf16" else decoder.half()
    assert decoder.model.get_input_embeddings().weight.element_size() == 2
    assert decoder.model.rotary.inv_freq.equal(frequencies) and frequencies.dtype == torch.float32


def test_ltm_adam_takes_the_memories_as_its_group(data, llama):
    trainer, batches = built(data, "--pretrained", llama, "--optimizer", "ltm_adam", "--bf16", *GIBBS)
    trainer.train_step([next(batches)])
    memories = sum(parameter.numel() for parameter in trainer.get_model().decoder.model.memories.parameters())
    others, own = trainer.optimizer.param_groups
    assert sum(parameter.numel() for parameter in own["params"]) == memories
    assert own["lr"] == 5 * others["lr"]


def test_freeze_pretrained_trains_the_memory_alone(data, llama):
    trainer, batches = built(
        data, "--pretrained", llama, "--freeze-pretrained", "--document-boundaries", "ignore", *GIBBS
    )
    model = trainer.get_model().decoder.model
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for _, sample in zip(range(5), batches):
        trainer.train_step([sample])
    changed = {name for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert changed == {name for name in before if name.startswith("memories.")}


def test_predictions_have_the_loss_of_every_token(data, checkpoint, tmp_path):
    found = scores(data, checkpoint, "--batch-size", 2, "--predictions", tmp_path / "p.npz")
    predictions = np.load(tmp_path / "p.npz")
    assert predictions["offset"].tolist() == list(range(found["tokens"]))
    assert predictions["target"].tolist() == [token for line in preparing.lines_of(data, "test") for token in line]
    assert predictions["loss"].sum() == pytest.approx(found["nll"], rel=1e-5)
    # Per layer: 4 sinks, and window and segment of 8, as wide as 32 channels, and 16 coefficients of as many.
    least = 2 * (4 + 8 + 8 + 16) * 32 * 4
    assert least < found["state_bytes"] < 1.5 * least


def test_fairseq_generate_spells_the_continuation_of_each_document(data, checkpoint, capfd):
    """By the tokenizer, in a line; what the data's vocabulary spells, no other option may."""
    task = [
        data,
        *TASK,
        "--document-boundaries",
        "reset",
        "--path",
        checkpoint,
        "--tokens-per-sample",
        SEGMENT,
        "--cpu",
    ]
    flags = ["--prefix-size", 6, "--beam", 1, "--max-len-b", 9, "--min-len", 0, "--num-workers", 0]
    code, error = run_here(generate.cli_main, *task, *flags)
    out = capfd.readouterr().out
    assert code == 0, error
    options = ["--path", str(checkpoint), "--data", str(data), "--cpu"]
    reader = reading.load(generating.build_parser().parse_args(options))
    for number, text in enumerate(list(BOOKS.values())[:2]):
        ids = reader.spelling.encode(text)
        stream = Stream(reader.model, SEGMENT)
        stream.read(torch.tensor([ids[:6]]))
        words = reader.spelling.decode(list(generating.generate(stream, 9, temperature=0)))
        for name, expected in [("S", reader.spelling.decode(ids[:6])), ("D", words)]:
            [line] = re.findall(rf"^{name}-{number}\t(?:-[\d.]+\t)?(.*)$", out, re.MULTILINE)
            assert line == expected.replace("\n", "\\n")
    code, error = run_here(generate.cli_main, *task, *flags, "--post-process", "gpt2")
    assert code == 1 and f"--post-process gpt2 does not apply, because tokenizer.json of {data}" in one_error(error)
    spelled = StreamingLanguageModelingTask.setup_task(StreamingLanguageModelingConfig(data=str(data)))
    with pytest.raises(InputError, match=r"--bpe sentencepiece does not apply, because .* has its own; leave it out"):
        spelled.build_bpe(SimpleNamespace(_name="sentencepiece"))


def test_score_answers_scores_what_stands_between_added_tokens(tmp_path):
    marked = ("<|endoftext|>", "<answer>", "</answer>")
    small_tokenizer.write(tmp_path / "llama", "the cat sat on the mat", special=marked)
    base("llama", vocab_size=300, bos_token_id=0).save_pretrained(tmp_path / "llama")
    books = {str(n): f"the cat sat on<answer> the mat</answer> {'on ' * n}\n" for n in range(3)}
    data = prepare(tmp_path, tmp_path / "llama", books)
    trainer, batches = built(data, "--pretrained", tmp_path / "llama", "--score", "answers", *GIBBS)
    counted = [trainer.criterion(trainer.get_model(), sample)[1] for sample in batches]
    ids = Tokenizer.from_file(str(data / "tokenizer.json")).encode(" the mat").ids
    assert sum(counted) == 3 * len(ids)


# ---- what does not fit ----------------------------------------------------------------------------------------------


def rewritten(**changes):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


WRONG = [
    (shutil.rmtree, [], r"--pretrained .*llama has no config.json; give the folder of a model"),
    (lambda folder: (folder / "config.json").write_text("{}"), [], r"config.json is not the config.json of a model"),
    (
        lambda folder: (folder / "model.safetensors").unlink(),
        [],
        r"the model of --pretrained cannot be built \(OSError",
    ),
    (
        rewritten(model_type="infformer"),
        [],
        r"^--pretrained .*llama has a memory already; give the folder of a model without",
    ),
    (rewritten(model_type="bert"), [], r"is not supported|cannot be built"),
    (rewritten(bos_token_id=None, eos_token_id=None), [], r"neither bos_token_id nor eos_token_id"),
    (rewritten(vocab_size=200), [], r"dict.txt has \d+ tokens, but the model 200; prepare the data with the model's"),
    (
        lambda folder: small_tokenizer.write(folder, "some other text, of which tokens are made"),
        [],
        r"dict.txt was not made from .*tokenizer.json; prepare the data with --level tokenizer --tokenizer",
    ),
    (None, ["--ltm-basis", 0], r"--ltm-basis must be a positive multiple of .*, got 0"),
    (None, ["--ltm-layers", "2"], r"--ltm-layers must lie in 0..1, got 2"),
    (None, ["--long-term-memory", "long"], r"--long-term-memory must be one of none, .*, got 'long'"),
    (
        None,
        ["--freeze-pretrained", "--long-term-memory", "none"],
        r"^--freeze-pretrained leaves nothing to train without a memory; leave it out",
    ),
    (None, ["--stm-length", -1], r"^--stm-length must be a whole number, 0 or more, got -1"),
    (
        None,
        ["--stm-length", 60],
        r"^--tokens-per-sample \+ --stm-length \+ --attention-sinks must be at most 64, got 8 \+ 60 \+ 4",
    ),
]


@pytest.mark.parametrize(("damage", "flags", "message"), WRONG)
def test_wrong_models_and_settings_are_refused_in_one_line(damage, flags, message, data, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "llama")
    if damage:
        damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        built(data, "--pretrained", folder, *flags)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_missing_transformers_are_refused(data, llama, monkeypatch):
    code, error = run_here(train.cli_main, data, *FLAGS, "--save-dir", data.parent / "unused")
    assert code == 1 and "--pretrained is missing; give the folder of the model to start from" in one_error(error)
    assert not (data.parent / "unused").exists()
    monkeypatch.setitem(sys.modules, "fairseq_infformer.pretrained", None)
    monkeypatch.delattr("fairseq_infformer.pretrained")
    with pytest.raises(InputError, match=r"infinite_former_pretrained needs transformers, .*: pip install '\.\[hf\]'"):
        built(data, "--pretrained", llama)


def test_data_with_other_tokens_is_refused(llama, tmp_path):
    raw = preparing.write(tmp_path / "raw", train="a word\n", valid="a\n")
    preparing.run(raw, tmp_path / "data")
    with pytest.raises(InputError, match=r"dict.txt has other tokens .*; prepare the data with --level tokenizer"):
        built(tmp_path / "data", "--pretrained", llama, "--batch-size", 1, "--document-boundaries", "ignore")
