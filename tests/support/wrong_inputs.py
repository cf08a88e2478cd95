"""The table of wrong inputs: what is wrong, and the error it must give. test_bad_input.py holds the commands to it."""

import io
import shlex
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch

RESET = "--document-boundaries reset"
ADAPTIVE = "--adaptive-softmax-cutoff 20,40"
FIXED = "--ltm-contraction fixed"
SLOTS = "--long-term-memory slots"
LEARNED = "--position-encoding learned --stm-length 0"


class Wrong(NamedTuple):
    """A row: what is wrong, as it is typed where it is an option, and the error that it must give."""

    name: str
    message: str
    flags: Sequence[str] = ()
    without: str = ""  # a flag that the command lacks, with its value
    data: str = ""  # a change of DATA
    checkpoint: str = ""  # one of CHECKPOINTS
    save: str = "save"  # --save-dir, in the test's folder
    splits: Optional[Mapping[str, str | bytes]] = None  # raw text, by the name of the file; None: correct text


def option(typed: str, message: str, beside: str = "", **files: str) -> Wrong:
    """A wrong option; ``beside`` has other options that the mistake needs."""
    name = f"{typed}, checkpoint" if files.get("checkpoint") else typed
    return Wrong(name, message, shlex.split(f"{beside} {typed}"), **files)


def without(flag: str, message: str, beside: str = "") -> Wrong:
    """A flag that is missing."""
    return Wrong(f"{beside} without {flag}".strip(), message, shlex.split(beside), without=flag)


def override(overrides: str, message: str) -> Wrong:
    """A wrong value of --model-overrides."""
    return Wrong(overrides, message, ["--model-overrides", overrides])


def data(change: str, message: str, beside: str = "", checkpoint: str = "") -> Wrong:
    """Wrong files in the data folder."""
    return Wrong(change, message, shlex.split(beside), data=change, checkpoint=checkpoint)


def checkpoint(name: str, message: str) -> Wrong:
    """A wrong file in the place of the last checkpoint."""
    return Wrong(f"checkpoint: {name}", message, checkpoint=name)


def raw(name: str, splits: Mapping[str, str | bytes], message: str, beside: str = "") -> Wrong:
    """Wrong raw text."""
    return Wrong(name, message, shlex.split(beside), splits=splits)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def array(value: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


def pickled(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def without_model(content: bytes) -> bytes:
    state = torch.load(io.BytesIO(content))
    del state["model"]
    return pickled(state)


def without_optimizer(content: bytes) -> bytes:
    state = torch.load(io.BytesIO(content))
    del state["last_optimizer_state"]
    return pickled(state)


def fewer_words(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:-5])


def other_order(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[::-1])


def index(num_tokens: int) -> bytes:
    """The .idx of one line of so many tokens of two bytes."""
    return b"MMIDIDX\0\0" + struct.pack("<QBQIQ", 1, 8, 1, num_tokens, 0)


# What is done to the files of a good data folder: new content, a function of the old, the name of another file, or None
# for no file.
Change = dict[str, bytes | Callable[[bytes], bytes] | str | None]
DATA: dict[str, Change] = {
    "no dictionary": {"dict.txt": None},
    "a second valid": {f"valid1.{end}": f"valid.{end}" for end in ("bin", "idx", "documents.npy")},
    "no valid": {"valid.bin": None, "valid.idx": None},
    "no valid.idx": {"valid.idx": None},
    "no train.bin": {"train.bin": None},
    "no train": {"train.bin": None, "train.idx": None},
    "short train": {"train.bin": bytes([5, 0] * 40), "train.idx": index(40), "stats.json": None},
    "half of train.bin": {"train.bin": cut},
    "empty train.bin": {"train.bin": b""},
    "longer train.bin": {"train.bin": lambda old: old + b"\0\0"},
    "half of train.idx": {"train.idx": cut},
    "empty valid.idx": {"valid.idx": b""},
    "train.idx of text": {"train.idx": b"no index\n" * 9},
    "train of no lines": {"train.bin": b"", "train.idx": b"MMIDIDX\0\0" + bytes([1, *[0] * 7, 8, *[0] * 8])},
    "a pad in train": {"train.bin": lambda old: old[:40] + bytes([1, 0]) + old[42:]},
    "a pad in test": {"test.bin": lambda old: old[:40] + bytes([1, 0]) + old[42:]},
    "no documents": {"train.documents.npy": None},
    "half of documents": {"train.documents.npy": cut},
    "empty documents": {"train.documents.npy": b""},
    "documents outside": {"train.documents.npy": array(np.array([0, 10**9]))},
    "documents of floats": {"train.documents.npy": array(np.array([0.0, 5.0]))},
    "documents of pairs": {"train.documents.npy": array(np.zeros((2, 2), dtype=np.int64))},
    "documents of none": {"train.documents.npy": array(np.zeros(0, dtype=np.int64))},
    "other dictionary": {"dict.txt": fewer_words},
    "other dictionary, no stats": {"dict.txt": fewer_words, "stats.json": None},
    "words in another order, no stats": {"dict.txt": other_order, "stats.json": None},
    "dictionary of nonsense": {"dict.txt": b"hello\nworld\n", "stats.json": None},
    "dictionary of bytes": {"dict.txt": b"\xff\xfe 1\n", "stats.json": None},
    "dictionary with a word twice": {"dict.txt": b"a 1\na 1\n", "stats.json": None},
    "dictionary without words": {"dict.txt": b"", "stats.json": None},
    "half of stats": {"stats.json": cut},
    "stats of something else": {"stats.json": b'{"dictionary": 3}'},
    "stats of another count": {"stats.json": lambda old: old.replace(b'"tokens": 19392', b'"tokens": 19391')},
}

CHECKPOINTS: dict[str, Callable[[bytes], bytes]] = {
    "good": lambda good: good,
    "half": cut,
    "empty": lambda good: b"",
    "zeros": lambda good: bytes(len(good)),
    "text": lambda good: b"this is no checkpoint\n" * 99,
    "a bit flipped": lambda good: (
        good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 16]) + good[len(good) // 2 + 1 :]
    ),
    "no history": lambda good: pickled({"cfg": None}),
    "no model": without_model,
    "no optimizer": without_optimizer,
    "a list": lambda good: pickled([1, 2]),
}

TRAINING = [
    # ---- streams
    without("--batch-size", r"--batch-size is missing; give the number of streams"),
    without("--batch-size", r"--batch-size is missing; give it, .* instead of --max-tokens", beside="--max-tokens 512"),
    option("--batch-size 0", r"--batch-size must be 1 or more, got 0"),
    option("--batch-size -2", r"--batch-size must be 1 or more, got -2"),
    option("--batch-size many", r"invalid int value: 'many'"),
    option("--batch-size 10000", r"10000 streams .* more than the \d+ segments .* smaller --batch-size"),
    option("--batch-size-valid 0", r"--batch-size-valid must be 1 or more, got 0"),
    option("--batch-size-valid 500", r"500 streams .* more than the \d+ segments .*--batch-size-valid"),
    option("--batch-size-valid 500 --train-subset test", r"500 streams .*--batch-size-valid"),
    option("--tokens-per-sample 0", r"--tokens-per-sample must be 1 or more, got 0"),
    option("--bptt-segments 0", r"--bptt-segments must be 1 or more, got 0"),
    option("--bptt-segments 9999", r"--bptt-segments 9999 is more than the \d+ segments that each of the \d+ streams"),
    option("--bptt-replay", r"--bptt-replay needs --bptt-segments 2 or more, got 1"),
    option("--num-workers -1", r"--num-workers must be 0 or more, got -1"),
    option("--update-freq 2,0", r"--update-freq must be 1 or more, got 2,0"),
    option("--document-boundaries sometimes", r"invalid choice: 'sometimes'"),
    option("--valid-subset valid,dev", r"has no split 'dev'; choose one of test, train, valid"),
    option('--valid-subset ""', r"has no split ''"),
    option("--train-subset dev", r"has no split 'dev'"),
    data("a second valid", r"Valid paths \['valid1'\] will be ignored"),
    option("--skip-remainder-batch --update-freq 3", r"--skip-remainder-batch would skip a part of the text"),
    option("--nval 3", r"--max-valid-steps would skip a part of the text"),
    # ---- sizes
    option("--decoder-layers 0", r"--decoder-layers must be 1 or more, got 0"),
    option("--decoder-embed-dim 0", r"--decoder-embed-dim must be 1 or more, got 0"),
    option("--decoder-ffn-embed-dim -1", r"--decoder-ffn-embed-dim must be 1 or more, got -1"),
    option("--decoder-attention-heads 3", r"multiple of --decoder-attention-heads, got 32 and 3"),
    option("--decoder-attention-heads 0", r"--decoder-attention-heads must be 1 or more, got 0"),
    option("--position-encoding rope --decoder-attention-heads 32", r"must be even, got 32 / 32"),
    option("--stm-length -1", r"--stm-length must be 0 or more, got -1"),
    option(
        "--position-encoding learned", r"--position-encoding learned starts over .* give --stm-length 0 instead of 8"
    ),
    option("--max-target-positions 0", r"--max-target-positions must be 1 or more, got 0", beside=LEARNED),
    option("--max-target-positions 8", r"8 learned positions, too few for segments of 16", beside=LEARNED),
    option("--dropout 1.5", r"--dropout must lie in \[0, 1\), got 1.5"),
    option("--dropout nan", r"--dropout must lie in \[0, 1\), got nan"),
    option("--attention-dropout -0.1", r"--attention-dropout must lie in \[0, 1\), got -0.1"),
    option("--activation-dropout 2", r"--activation-dropout must lie in \[0, 1\), got 2"),
    # ---- the long-term memory
    option("--ltm-basis 15", r"--ltm-basis must be a positive multiple .* got 15; try 16"),
    option("--ltm-basis 0", r"--ltm-basis must be a positive multiple .* got 0"),
    option("--ltm-widths 0.1,-0.2", r"--ltm-widths must be one or more positive numbers, got \(0.1, -0.2\)"),
    option('--ltm-widths "0.1;0.2"', r"--ltm-widths must be numbers separated by commas, got '0.1;0.2'"),
    option('--ltm-widths ""', r"--ltm-widths must be numbers .* got ''"),
    option("--ltm-samples 0", r"--ltm-samples must be positive, got 0"),
    option("--ltm-widths 0.01,0.05", r"--ltm-samples must be more for 16 functions .* got 16: .* give more samples"),
    option("--ltm-ridge 0", r"--ltm-ridge must be 1e-08 or more and finite, got 0"),
    option("--ltm-ridge nan", r"--ltm-ridge must be 1e-08 or more and finite, got nan"),
    option("--ltm-tau 1", r"--ltm-tau must lie inside \(0, 1\), got 1", beside=FIXED),
    option("--ltm-tau 0", r"--ltm-tau must lie inside \(0, 1\), got 0", beside=FIXED),
    option("--ltm-horizon 9", r"--ltm-horizon needs the proportional contraction, got 9 with fixed", beside=FIXED),
    option("--ltm-horizon 0", r"--ltm-horizon must be positive, got 0"),
    option("--ltm-min-sigma 1", r"--ltm-min-sigma must lie in \[0, 1\), or be -1 for the narrowest width, got 1"),
    option("--ltm-min-sigma -0.5", r"--ltm-min-sigma must lie in \[0, 1\), or be -1 .* got -0.5"),
    option("--ltm-layers 0,2", r"--ltm-layers must lie in 0..1, got 0,2"),
    option("--ltm-layers last", r"--ltm-layers must be numbers .* got 'last'"),
    option("--ltm-density gauss", r"--ltm-density must be one of gaussian, .*truncated-gaussian, got 'gauss'"),
    option("--ltm-sampling random", r"invalid choice: 'random'"),
    option("--ltm-contraction halving", r"invalid choice: 'halving'"),
    # ---- adaptive input and softmax
    option("--adaptive-input", r"--adaptive-input needs .* give --adaptive-input-cutoff"),
    option(
        "--adaptive-input --adaptive-input-cutoff 9",
        r"tied .* got --adaptive-input-cutoff 9 and --adaptive-softmax-cutoff 20,40",
        beside=ADAPTIVE,
    ),
    option("--adaptive-softmax-cutoff 40,20", r"must increase and stay below the 72 types .* got 40,20"),
    option("--adaptive-softmax-cutoff 20,99", r"must increase and stay below the 72 types .* got 20,99"),
    option("--adaptive-softmax-factor 0", r"--adaptive-softmax-factor 0 leaves no width", beside=ADAPTIVE),
    option("--adaptive-softmax-factor 9", r"--adaptive-softmax-factor 9 .* give one in 1..5.66", beside=ADAPTIVE),
    option("--adaptive-input --adaptive-input-factor 0", r"--adaptive-input-factor 0 leaves", beside=ADAPTIVE),
    option("--adaptive-softmax-dropout 1", r"--adaptive-softmax-dropout must lie in", beside=ADAPTIVE),
    # ---- the loss
    option("--ltm-kl-weight -1", r"--ltm-kl-weight must be 0 or more, got -1"),
    option("--ltm-kl-weight nan", r"--ltm-kl-weight must be 0 or more, got nan"),
    option("--ltm-kl-sigma 0", r"--ltm-kl-sigma must be positive, got 0"),
    option("--criterion cross_entropy", r"--criterion cross_entropy cannot train an adaptive", beside=ADAPTIVE),
    option("--criterion adaptive_loss", r"--criterion adaptive_loss needs --adaptive-softmax-cutoff"),
    option("--best-checkpoint-metric bleu", r"--best-checkpoint-metric bleu is not logged; choose one of loss"),
    option("--criterion bleu", r"invalid choice: 'bleu'"),
    # ---- a pretrained GPT-2, as earlier versions had it
    option("--arch infinite_former_gpt2", r"is of earlier versions, .*; give --arch infinite_former_pretrained"),
    option("--gpt2 G", r"--gpt2: give --arch infinite_former_pretrained --pretrained G instead"),
    option("--slots-count 0", r"--slots-count must be 1 or more, got 0", beside=SLOTS),
    option("--slots-temperature 0", r"--slots-temperature must be positive, got 0", beside=SLOTS),
    option("--slots-temperature=-1", r"--slots-temperature must be positive, got -1", beside=SLOTS),
    option("--optimizer ltm_adam --long-term-memory none", r"ltm_adam needs weights of a long-term"),
    # ---- how fairseq runs
    option("--ddp-backend fully_sharded", r"\(FSDP\) is not supported"),
    option("--cpu-offload", r"--cpu-offload needs FSDP"),
    option("--model-parallel-size 2", r"model parallelism is not supported"),
    option("--tpu", r"--tpu is not supported"),
    option("--fp16 --amp", r"--fp16 and --amp cannot be combined"),
    option("--write-checkpoints-asynchronously", r"--write-checkpoints-asynchronously is not supported"),
    option("--seed -1", r"--seed must lie in 0..4294967295, got -1"),
    option("--max-epoch -1", r"--max-epoch must be 0 or more, got -1"),
    option("--log-interval 0", r"--log-interval must be 1 or more, got 0"),
    option("--save-interval 0", r"--save-interval must be 1 or more, got 0"),
    option("--log-file /nowhere/log", r"--log-file .* its folder does not exist"),
    option("--tensorboard-logdir /proc/none", r"--tensorboard-logdir /proc/none cannot be made"),
    option("--zero-sharding os", r"--zero-sharding is not supported"),
    option("--model-parallel-size 0", r"model parallelism is not supported"),
    option("--quantization-config-path none.yaml", r"--quantization-config-path is not supported"),
    option("--use-plasma-view", r"--use-plasma-view needs pyarrow with plasma; leave it out"),
    *([] if torch.cuda.is_available() else [option("--profile", r"--profile needs a GPU; leave it out")]),
    option("--fp16-adam-stats", r"--fp16-adam-stats is only supported with FusedAdamV1\); change"),
    option("--lr-scheduler cosine", r"cosine cannot be set up .*Either --max_update or --lr-period"),
    option("--lr-scheduler polynomial_decay", r"--total-num-update has no default; give it a value"),
    option("--optimizer cpu_adam", r"--optimizer cpu_adam .*Please install DeepSpeed: pip install deepspeed\)"),
    option("--adam-betas 0.9", r"--optimizer adam .*cannot unpack"),
    option("--store-ema --ema-update-freq 0", r"--ema-update-freq must be 1 or more, got 0"),
    option("--store-ema --ema-decay 2", r"--ema-decay must lie in \[0, 1\], got 2"),
    option("--store-ema --ema-seed-model none.pt", r"--ema-seed-model none.pt does not exist"),
    # ---- where it saves and starts
    Wrong("--save-dir notes.txt", r"--save-dir .* cannot be written \(File exists\)", save="notes.txt"),
    Wrong("--save-dir notes.txt/save", r"--save-dir .* cannot be written \(Not a directory\)", save="notes.txt/save"),
    Wrong("--save-dir /proc/none", r"--save-dir /proc/none cannot be written", save="/proc/none"),
    Wrong("--save-dir /sys/none", r"--save-dir /sys/none cannot be written", save="/sys/none"),
    option("--restore-file none.pt", r"--restore-file none.pt does not exist"),
    option("--finetune-from-model none.pt", r"--finetune-from-model none.pt does not exist"),
    option(
        "--restore-file none.pt --finetune-from-model none.pt",
        r"--restore-file and --finetune-from-model cannot be combined",
    ),
    option("--continue-once none.pt", r"--continue-once none.pt does not exist"),
    option('--optimizer-overrides "{bad"', r"--optimizer-overrides takes a dict such as .* got '\{bad'"),
    Wrong(
        "--restore-file beside checkpoint_last.pt",
        r"start over although .*checkpoint_last.pt exists; leave",
        ["--restore-file", __file__],
        checkpoint="good",
    ),
    checkpoint("no optimizer", r"has no optimizer state .* give --reset-optimizer to start a new training"),
    checkpoint("half", r"is truncated or is not a fairseq checkpoint .*central directory"),
    checkpoint("empty", r"is truncated or is not a fairseq checkpoint .*EOFError"),
    checkpoint("zeros", r"is truncated or is not a fairseq checkpoint"),
    checkpoint("text", r"is truncated or is not a fairseq checkpoint"),
    checkpoint("a bit flipped", r"is damaged \(wrong checksum of .*data"),
    checkpoint("no history", r"is truncated or is not a fairseq checkpoint"),
    checkpoint("no model", r"does not hold a model and its settings"),
    checkpoint("a list", r"is truncated or is not a fairseq checkpoint"),
    option("--decoder-embed-dim 64", r"another model \(size mismatch .*\[72, 32\]", checkpoint="good"),
    option("--decoder-layers 3", r"another model \(Missing key.*layers.2", checkpoint="good"),
    option("--long-term-memory none", r"another model \(", checkpoint="good"),
    option("--position-encoding rope", r"another model \(", checkpoint="good"),
    option(ADAPTIVE, r"another model \(", checkpoint="good"),
    option("--ltm-basis 8", r"basis has 16 functions .* model's has 8", checkpoint="good"),
    option(
        "--optimizer sgd", r"another optimizer.*give those it was trained with, or --reset-optimizer", checkpoint="good"
    ),
    option("--criterion cross_entropy", r"another optimizer, criterion", checkpoint="good"),
    option("--lr-scheduler cosine --max-update 9", r"another optimizer, criterion or sch", checkpoint="good"),
    data("words in another order, no stats", r"is not the one that the checkpoint was", checkpoint="good"),
    # ---- the data
    data("no dictionary", r"dict.txt does not exist; make the data with preprocess/prepare.sh"),
    data("no valid", r"has no split 'valid'; choose one of test, train"),
    data("no valid.idx", r"valid.bin has no valid.idx beside it"),
    data("no train.bin", r"train.idx has no train.bin beside it"),
    data("half of train.bin", r"train.bin has 19392 bytes, but train.idx implies 38784"),
    data("empty train.bin", r"train.bin has 0 bytes, but train.idx implies 38784"),
    data("longer train.bin", r"train.bin has 38786 bytes, but train.idx implies 38784"),
    data("half of train.idx", r"train.idx is truncated or damaged"),
    data("empty valid.idx", r"valid.idx is not an index that fairseq wrote"),
    data("train.idx of text", r"train.idx is not an index that fairseq wrote"),
    data("train of no lines", r"train.bin is empty; prepare the data again"),
    data("a pad in train", r"train.bin contains the word <pad>, which fairseq reserves"),
    data("no documents", r"needs data prepared with --documents", beside=RESET),
    data("half of documents", r"documents.npy is truncated or is not a numpy array", beside=RESET),
    data("empty documents", r"documents.npy is truncated or is not a numpy array", beside=RESET),
    *(
        data(f"documents {name}", r"does not match the 19392 tokens beside it", beside=RESET)
        for name in ("outside", "of floats", "of pairs", "of none")
    ),
    data("other dictionary", r"is not the dictionary that the data beside it was made with"),
    data(
        "other dictionary, no stats",
        r"train.bin contains token 71, but dict.txt has only 67 types|belongs to another corpus",
    ),
    data("dictionary of nonsense", r"dict.txt cannot be read as a fairseq dictionary \(Incorrect dict"),
    data("dictionary of bytes", r"dict.txt cannot be read as a fairseq dictionary \(Incorrect encoding"),
    data("dictionary with a word twice", r"dict.txt cannot be read .*Duplicate word"),
    data("dictionary without words", r"dict.txt has no words"),
    data("half of stats", r"stats.json is not as prepare.sh wrote it"),
    data("stats of something else", r"stats.json is not as prepare.sh wrote it"),
    data("stats of another count", r"stats.json counts 19391 tokens in train, but the data has 19392"),
]

EVALUATION = [
    option("--context-window 4", r"--context-window 4 does not apply"),
    option("--num-shards 2", r"result of shard 0 of 2 only"),
    option("--shard-id 1", r"result of shard 1 of 1 only"),
    option("--gen-subset dev", r"has no split 'dev'"),
    option("--batch-size 0", r"--batch-size must be 1 or more, got 0"),
    option("--batch-size 99", r"99 streams .* more than the \d+ segments"),
    data("other dictionary, no stats", r"prepare.sh --dict"),
    override("{'ltm_basis': 8}", r"16 functions of widths \(0.05, 0.2\), the model's has 8"),
    override("{'decoder_embed_dim': 64}", r"another model \(size mismatch"),
    override("{'ltm_ablaton': 'zero'}", r"--model-overrides has 'ltm_ablaton', which"),
    option('--model-overrides "{bad"', r"--model-overrides takes a dict such as .* got '\{bad'"),
    override("{'ltm_ablation': 'zeros'}", r"--ltm-ablation must be one of none, zero, swap, got 'zeros'"),
    override("{'ltm_ablation': 'Zero'}", r"--ltm-ablation must be one of none, zero, swap, got 'Zero'"),
    override("{'ltm_ablation': None}", r"--ltm-ablation must be one of none, zero, swap, got None"),
    override("{'stm_length': '7'}", r"--stm-length must be a whole number, got '7'"),
    override("{'ltm_horizon': 1.5}", r"--ltm-horizon must be a whole number or None, got 1.5"),
    override("{'ltm_flat_start': 1}", r"--ltm-flat-start must be True or False, got 1"),
    override(
        "{'tokens_per_sample': 4}", r"'tokens_per_sample', which is no setting of the model; give --tokens-per-sample"
    ),
    override("{'lr': [1]}", r"'lr', which is no setting of the model; leave it out"),
    override("{'model': {'stm_length': 4}}", r"'model', which is no setting of the model; leave it out"),
    option("--task language_modeling", r"--task streaming_language_modeling"),
    option("--path none.pt", r"--path none.pt does not exist; give a checkpoint that does"),
    option("--path a.pt:b.pt", r"--path a.pt:b.pt contains ':', which joins several checkpoints"),
    without("--path", r"--path is missing; give the checkpoint"),
    data("a pad in test", r"test.bin contains the word <pad>"),
    checkpoint("half", r"is truncated or is not a fairseq checkpoint"),
    checkpoint("a bit flipped", r"is damaged"),
]

SCORING = [
    option("--path none.pt", r"--path none.pt does not exist; give a checkpoint that does"),
    option("--path a.pt:b.pt", r"--path a.pt:b.pt does not exist; several joined by ':' cannot be used"),
    checkpoint("empty", r"is truncated or is not a fairseq checkpoint"),
    checkpoint("a list", r"is truncated or is not a fairseq checkpoint"),
    checkpoint("no model", r"does not hold a model and its settings"),
    option("--batch-size 0", r"--batch-size must be 1 or more, got 0"),
    option("--tokens-per-sample 0", r"--tokens-per-sample must be 1 or more, got 0"),
    option("--stm-length -1", r"--stm-length must be 0 or more, got -1"),
    option("--split dev", r"has no split 'dev'"),
    option("--predictions none/p.npz", r"the folder of --predictions none/p.npz does not exist"),
    option("--user-dir none", r"--user-dir none is not a folder; give the plugin"),
    data("other dictionary", r"is not the dictionary"),
    data("a pad in test", r"test.bin contains the word <pad>"),
    option("--ablation half", r"invalid choice: 'half'"),
]

VALIDATION = [
    without("--batch-size", r"--batch-size is missing; give the number of streams"),
    override("{'ltm_ablation': 'zeros'}", r"--ltm-ablation must be one of none, zero, swap"),
    override("{'document_boundaries': 'reset'}", r"give --document-boundaries"),
]

PREPARING = [
    # ---- raw text
    raw("no train, no valid", {"input.txt": "a"}, r"no train split, only input.txt; cut the text"),
    raw("an empty folder", {}, r"no train split, because it is empty"),
    raw("no valid", {"train": "a"}, r"no valid split"),
    raw("two for train", {"train": "a", "valid": "b", "more-train": "c"}, r"2 candidates for train: more-train, train"),
    raw("one for train and test", {"train-test": "a", "valid": "b"}, r"fits two splits"),
    raw("empty train", {"train": "", "valid": "b"}, r"train has no text"),
    raw("blank valid", {"train": "a", "valid": " \n\n\t\n"}, r"valid has no text"),
    raw("train of a byte order mark", {"train": "\ufeff", "valid": "b"}, r"train has no text"),
    raw("empty test", {"train": "a", "valid": "a", "test": ""}, r"test has no text"),
    raw("a folder in train", {"train/sub/a": "a", "valid": "b"}, r"sub is not a file"),
    raw("train of a hidden file", {"train/.hidden": "a", "valid": "b"}, r"is an empty folder"),
    raw("Latin-1", {"train": b"one\ntwo\ncaf\xe9\n", "valid": "b"}, r"train is not UTF-8: byte 0xe9 at offset 11;"),
    raw("UTF-16", {"train": "one\n".encode("utf-16"), "valid": "b"}, r"is not UTF-8: byte 0xff at offset 0"),
    raw("surrogates", {"train": b"\xed\xa0\x80\n", "valid": "b"}, r"is not UTF-8: byte 0xed at offset 0"),
    raw("all bytes", {"train": "a", "valid": bytes(range(256))}, r"valid is not UTF-8: byte 0x80 at offset 128"),
    raw("the word </s>", {"train": "a </s> b", "valid": "b"}, r"contains the word </s>, which fairseq reserves"),
    raw("CR alone", {"train": "a\rb\r", "valid": "b"}, r"train ends its lines with CR only; convert it"),
    raw("train without visible text", {"train": "\u200b\n\ufeff \u2060\n", "valid": "b"}, r"train has no text"),
    raw(
        "constrain beside train, no valid",
        {"constrain": "a", "train.txt": "a", "test": "b"},
        r"no valid split, only constrain, test, train.txt",
    ),
    raw(
        "two whose names end in train",
        {"mytrain": "a", "strain": "a", "myvalid": "b"},
        r"2 candidates for train: mytrain, strain",
    ),
    raw(
        "valid and validation",
        {"train": "a", "valid.txt": "b", "validation": "b"},
        r"2 candidates for valid: valid.txt, validation",
    ),
    raw(
        "valid without <|endoftext|>",
        {"train": "a\n<|endoftext|>\n", "valid": "b"},
        r"valid has no line <\|endoftext\|>",
        beside="--documents endoftext",
    ),
    raw(
        "<|endoftext|> in a line",
        {"train": "a<|endoftext|>\n", "valid": "b"},
        r"train has <\|endoftext\|> in a line",
        beside="--documents endoftext",
    ),
    # ---- the arguments
    option("--vocab-size 4", r"no room"),
    option("--vocab-size -1", r"no room"),
    option("--vocab-size all", r"invalid int value: 'all'"),
    option("--workers 0", r"--workers must be 1 or more, got 0"),
    option("--stage 3 --stop-stage 2", r"is not a range of stages"),
    option("--stage 2", r"stage 1 \(text\) of .* has not been run"),
    option("--level bytes", r"invalid choice: 'bytes'"),
    option("--model-type bpe", r"does not apply to --level word"),
    option("--sentencepiece-model x", r"does not apply to --level word"),
    option("--dict x --vocab-size 9", r"--vocab-size cannot be combined with --dict"),
    option("--dict x", r"x cannot be read as a fairseq dictionary"),
    option("--dict /dev/null", r"/dev/null has no words"),
    option("--documents wikitext", r"no line ' = Title = '"),
    option("--documents file", r"needs folders, but train is the file"),
    option("--level sentencepiece --dict x", r"also give --sentencepiece-model"),
    option("--level sentencepiece --sentencepiece-model x", r"x cannot be read as a sentencepiece model"),
    option("--gpt2 x --level gpt2", r"--level: give --level tokenizer --tokenizer DIR instead of gpt2 and --gpt2 DIR"),
    option("--tokenizer x", r"--tokenizer does not apply to --level word; leave it out"),
    option("--level tokenizer", r"--level tokenizer needs --tokenizer; give the folder of the model"),
    option("--level tokenizer --tokenizer x", r"--tokenizer x has no tokenizer.json; save the tokenizer there"),
    option("--level tokenizer --tokenizer x --dict x", r"--dict does not apply to --level tokenizer"),
    option("--raw /nowhere", r"--raw /nowhere is not a folder"),
    option("--dest /proc/none/x", r"check that the files can be read, and that --dest can be written"),
    option("--dest /dev/null", r"--dest /dev/null is a file"),
    option("--dest /nowhere/a:b", r"--dest /nowhere/a:b contains ':', at which fairseq splits"),
]
