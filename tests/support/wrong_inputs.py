"""The table of wrong inputs: what is wrong, and the error it must give. test_bad_input.py holds the commands to it."""

import io
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

RESET = ["--document-boundaries", "reset"]
ADAPTIVE = ["--adaptive-softmax-cutoff", "20,40"]
FIXED = ["--ltm-contraction", "fixed"]
LEARNED = ["--position-encoding", "learned", "--stm-length", 0]


class Wrong(NamedTuple):
    """A row: what is given to a command beside what is right, and the error it must give."""

    message: str
    flags: tuple | list = ()
    data: str = ""  # of DATA
    checkpoint: str = ""  # of CHECKPOINTS
    save: str = "save"  # --save-dir, in the test's folder


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
    Wrong(r"give --batch-size, the number of streams", ["--batch-size", None]),
    Wrong(r"give --batch-size, .*not --max-tokens", ["--batch-size", None, "--max-tokens", 512]),
    Wrong(r"--batch-size must be 1 or more, got 0", ["--batch-size", 0]),
    Wrong(r"--batch-size must be 1 or more, got -2", ["--batch-size", -2]),
    Wrong(r"invalid int value: 'many'", ["--batch-size", "many"]),
    Wrong(r"10000 streams .* more than the \d+ segments .* smaller --batch-size", ["--batch-size", 10_000]),
    Wrong(r"--batch-size-valid must be 1 or more, got 0", ["--batch-size-valid", 0]),
    Wrong(r"500 streams .* more than the \d+ segments .*--batch-size-valid", ["--batch-size-valid", 500]),
    Wrong(r"500 streams .*--batch-size-valid", ["--batch-size-valid", 500, "--train-subset", "test"]),
    Wrong(r"--tokens-per-sample must be positive, got 0", ["--tokens-per-sample", 0]),
    Wrong(r"--num-workers must be 0 or more, got -1", ["--num-workers", -1]),
    Wrong(r"--update-freq must be 1 or more, got 2,0", ["--update-freq", "2,0"]),
    Wrong(r"invalid choice: 'sometimes'", ["--document-boundaries", "sometimes"]),
    Wrong(r"there is no split 'dev' in .*; it has test, train, valid", ["--valid-subset", "valid,dev"]),
    Wrong(r"there is no split ''", ["--valid-subset", ""]),
    Wrong(r"there is no split 'dev'", ["--train-subset", "dev"]),
    Wrong(r"Valid paths \['valid1'\] will be ignored", data="a second valid"),
    Wrong(r"--skip-remainder-batch leaves out a part of the text", ["--skip-remainder-batch", "--update-freq", 3]),
    Wrong(r"--max-valid-steps leaves out a part of the text", ["--nval", 3]),
    # ---- sizes
    Wrong(r"--decoder-layers must be 1 or more, got 0", ["--decoder-layers", 0]),
    Wrong(r"--decoder-embed-dim must be 1 or more, got 0", ["--decoder-embed-dim", 0]),
    Wrong(r"--decoder-ffn-embed-dim must be 1 or more, got -1", ["--decoder-ffn-embed-dim", -1]),
    Wrong(r"multiple of num_heads, got 32 and 3", ["--decoder-attention-heads", 3]),
    Wrong(r"multiple of num_heads, got 32 and 0", ["--decoder-attention-heads", 0]),
    Wrong(r"must be even, got 32 / 32", ["--position-encoding", "rope", "--decoder-attention-heads", 32]),
    Wrong(r"--stm-length must be 0 or more, got -1", ["--stm-length", -1]),
    Wrong(r"learned positions begin anew .* give --stm-length 0 instead of 8", ["--position-encoding", "learned"]),
    Wrong(r"--max-target-positions must be 1 or more, got 0", [*LEARNED, "--max-target-positions", 0]),
    Wrong(r"8 learned positions, too few for segments of 16", [*LEARNED, "--max-target-positions", 8]),
    Wrong(r"--dropout must lie in \[0, 1\), got 1.5", ["--dropout", 1.5]),
    Wrong(r"--dropout must lie in \[0, 1\), got nan", ["--dropout", "nan"]),
    Wrong(r"--attention-dropout must lie in \[0, 1\), got -0.1", ["--attention-dropout", -0.1]),
    Wrong(r"--activation-dropout must lie in \[0, 1\), got 2", ["--activation-dropout", 2]),
    # ---- the long-term memory
    Wrong(r"--ltm-basis must be a positive multiple .* got 15; try 16", ["--ltm-basis", 15]),
    Wrong(r"--ltm-basis must be a positive multiple .* got 0", ["--ltm-basis", 0]),
    Wrong(r"--ltm-widths must be one or more positive numbers, got \(0.1, -0.2\)", ["--ltm-widths", "0.1,-0.2"]),
    Wrong(r"--ltm-widths takes numbers with commas between, got '0.1;0.2'", ["--ltm-widths", "0.1;0.2"]),
    Wrong(r"--ltm-widths takes numbers .* got ''", ["--ltm-widths", ""]),
    Wrong(r"--ltm-samples must be positive, got 0", ["--ltm-samples", 0]),
    Wrong(
        r"--ltm-samples must be more for 16 functions .* got 16: .* give more samples", ["--ltm-widths", "0.01,0.05"]
    ),
    Wrong(r"--ltm-ridge must be 1e-08 or more and finite, got 0", ["--ltm-ridge", 0]),
    Wrong(r"--ltm-ridge must be 1e-08 or more and finite, got nan", ["--ltm-ridge", "nan"]),
    Wrong(r"--ltm-tau must lie inside \(0, 1\), got 1", [*FIXED, "--ltm-tau", 1]),
    Wrong(r"--ltm-tau must lie inside \(0, 1\), got 0", [*FIXED, "--ltm-tau", 0]),
    Wrong(r"--ltm-horizon needs the proportional contraction, got 9 with fixed", [*FIXED, "--ltm-horizon", 9]),
    Wrong(r"--ltm-horizon must be positive, got 0", ["--ltm-horizon", 0]),
    Wrong(r"--ltm-min-sigma must lie in \[0, 1\), or be -1 for the narrowest width, got 1", ["--ltm-min-sigma", 1]),
    Wrong(r"--ltm-min-sigma must lie in \[0, 1\), or be -1 .* got -0.5", ["--ltm-min-sigma", -0.5]),
    Wrong(r"--ltm-layers must lie in 0..1, got 0,2", ["--ltm-layers", "0,2"]),
    Wrong(r"--ltm-layers takes numbers .* got 'last'", ["--ltm-layers", "last"]),
    Wrong(r"--ltm-density must be one of gaussian, .*truncated-gaussian, got 'gauss'", ["--ltm-density", "gauss"]),
    Wrong(r"invalid choice: 'random'", ["--ltm-sampling", "random"]),
    Wrong(r"invalid choice: 'halving'", ["--ltm-contraction", "halving"]),
    # ---- adaptive input and softmax
    Wrong(r"--adaptive-input needs --adaptive-input-cutoff", ["--adaptive-input"]),
    Wrong(r"tied .* got 9 and 20,40", [*ADAPTIVE, "--adaptive-input", "--adaptive-input-cutoff", 9]),
    Wrong(r"must rise and stay below the 72 types .* got 40,20", ["--adaptive-softmax-cutoff", "40,20"]),
    Wrong(r"must rise and stay below the 72 types .* got 20,99", ["--adaptive-softmax-cutoff", "20,99"]),
    Wrong(r"--adaptive-softmax-factor 0 leaves no width", [*ADAPTIVE, "--adaptive-softmax-factor", 0]),
    Wrong(r"--adaptive-softmax-factor 9 .* give one in 1..5.66", [*ADAPTIVE, "--adaptive-softmax-factor", 9]),
    Wrong(r"--adaptive-input-factor 0 leaves", [*ADAPTIVE, "--adaptive-input", "--adaptive-input-factor", 0]),
    Wrong(r"--adaptive-softmax-dropout must lie in", [*ADAPTIVE, "--adaptive-softmax-dropout", 1]),
    # ---- the loss
    Wrong(r"--ltm-kl-weight must be 0 or more, got -1", ["--ltm-kl-weight", -1]),
    Wrong(r"--ltm-kl-weight must be 0 or more, got nan", ["--ltm-kl-weight", "nan"]),
    Wrong(r"--ltm-kl-sigma must be positive, got 0", ["--ltm-kl-sigma", 0]),
    Wrong(r"--criterion cross_entropy cannot train an adaptive", [*ADAPTIVE, "--criterion", "cross_entropy"]),
    Wrong(r"--criterion adaptive_loss needs --adaptive-softmax-cutoff", ["--criterion", "adaptive_loss"]),
    Wrong(r"--best-checkpoint-metric bleu is not logged; choose one of loss", ["--best-checkpoint-metric", "bleu"]),
    Wrong(r"invalid choice: 'bleu'", ["--criterion", "bleu"]),
    # ---- a pretrained GPT-2; test_gpt2.py has what can be wrong with its folder
    Wrong(r"give --gpt2, the folder of the GPT-2 to start from", ["--arch", "infinite_former_gpt2"]),
    Wrong(r"--gpt2 none has no config.json", ["--gpt2", "none"]),
    Wrong(r"ltm_adam finds no weights of a long-term", ["--optimizer", "ltm_adam", "--long-term-memory", "none"]),
    # ---- how fairseq runs
    Wrong(r"\(FSDP\) is not supported", ["--ddp-backend", "fully_sharded"]),
    Wrong(r"--cpu-offload needs FSDP", ["--cpu-offload"]),
    Wrong(r"model parallelism is not supported", ["--model-parallel-size", 2]),
    Wrong(r"--tpu is not supported", ["--tpu"]),
    Wrong(r"--fp16 and --amp exclude each other", ["--fp16", "--amp"]),
    Wrong(r"--write-checkpoints-asynchronously is not supported", ["--write-checkpoints-asynchronously"]),
    Wrong(r"--seed must lie in 0..4294967295, got -1", ["--seed", -1]),
    Wrong(r"--max-epoch must be 0 or more, got -1", ["--max-epoch", -1]),
    Wrong(r"--log-interval must be 1 or more, got 0", ["--log-interval", 0]),
    Wrong(r"--save-interval must be 1 or more, got 0", ["--save-interval", 0]),
    Wrong(r"--log-file .* its folder does not exist", ["--log-file", "/nowhere/log"]),
    Wrong(r"--tensorboard-logdir /proc/none cannot be made", ["--tensorboard-logdir", "/proc/none"]),
    Wrong(r"--zero-sharding is not supported", ["--zero-sharding", "os"]),
    Wrong(r"model parallelism is not supported", ["--model-parallel-size", 0]),
    Wrong(r"--quantization-config-path is not supported", ["--quantization-config-path", "none.yaml"]),
    Wrong(r"--use-plasma-view needs pyarrow with plasma; leave it out", ["--use-plasma-view"]),
    *([] if torch.cuda.is_available() else [Wrong(r"--profile needs a GPU; leave it out", ["--profile"])]),
    Wrong(r"--fp16-adam-stats is only supported with FusedAdamV1\); change", ["--fp16-adam-stats"]),
    Wrong(r"cosine cannot be set up .*Either --max_update or --lr-period", ["--lr-scheduler", "cosine"]),
    Wrong(r"give --total-num-update, which has no default", ["--lr-scheduler", "polynomial_decay"]),
    Wrong(r"--optimizer cpu_adam .*Please install DeepSpeed: pip install deepspeed\)", ["--optimizer", "cpu_adam"]),
    Wrong(r"--optimizer adam .*cannot unpack", ["--adam-betas", "0.9"]),
    Wrong(r"--ema-update-freq must be 1 or more, got 0", ["--store-ema", "--ema-update-freq", 0]),
    Wrong(r"--ema-decay must lie in \[0, 1\], got 2", ["--store-ema", "--ema-decay", 2]),
    Wrong(r"--ema-seed-model none.pt does not exist", ["--store-ema", "--ema-seed-model", "none.pt"]),
    # ---- where it saves and starts
    Wrong(r"--save-dir .* cannot be written \(File exists\)", save="notes.txt"),
    Wrong(r"--save-dir .* cannot be written \(Not a directory\)", save="notes.txt/save"),
    Wrong(r"--save-dir /proc/none cannot be written", save="/proc/none"),
    Wrong(r"--save-dir /sys/none cannot be written", save="/sys/none"),
    Wrong(r"--restore-file none.pt does not exist", ["--restore-file", "none.pt"]),
    Wrong(r"--finetune-from-model none.pt does not exist", ["--finetune-from-model", "none.pt"]),
    Wrong(r"exclude each other", ["--restore-file", "none.pt", "--finetune-from-model", "none.pt"]),
    Wrong(r"--continue-once none.pt does not exist", ["--continue-once", "none.pt"]),
    Wrong(r"--optimizer-overrides takes a dict such as .* got '\{bad'", ["--optimizer-overrides", "{bad"]),
    Wrong(r"begin anew although .*checkpoint_last.pt is there: leave", ["--restore-file", __file__], checkpoint="good"),
    Wrong(r"has no optimizer state .* --reset-optimizer starts another", checkpoint="no optimizer"),
    Wrong(r"is truncated or is not a fairseq checkpoint .*central directory", checkpoint="half"),
    Wrong(r"is truncated or is not a fairseq checkpoint .*EOFError", checkpoint="empty"),
    Wrong(r"is truncated or is not a fairseq checkpoint", checkpoint="zeros"),
    Wrong(r"is truncated or is not a fairseq checkpoint", checkpoint="text"),
    Wrong(r"is damaged \(checksum of .*data", checkpoint="a bit flipped"),
    Wrong(r"is truncated or is not a fairseq checkpoint", checkpoint="no history"),
    Wrong(r"holds no model with its settings", checkpoint="no model"),
    Wrong(r"is truncated or is not a fairseq checkpoint", checkpoint="a list"),
    Wrong(r"another model \(size mismatch .*\[72, 32\]", ["--decoder-embed-dim", 64], checkpoint="good"),
    Wrong(r"another model \(Missing key.*layers.2", ["--decoder-layers", 3], checkpoint="good"),
    Wrong(r"another model \(", ["--long-term-memory", "none"], checkpoint="good"),
    Wrong(r"another model \(", ["--position-encoding", "rope"], checkpoint="good"),
    Wrong(r"another model \(", ADAPTIVE, checkpoint="good"),
    Wrong(r"basis has 16 functions .* model's has 8", ["--ltm-basis", 8], checkpoint="good"),
    Wrong(r"another optimizer.*give those of its run, or --reset-optimizer", ["--optimizer", "sgd"], checkpoint="good"),
    Wrong(r"another optimizer, criterion", ["--criterion", "cross_entropy"], checkpoint="good"),
    Wrong(r"another optimizer, criterion or sch", ["--lr-scheduler", "cosine", "--max-update", 9], checkpoint="good"),
    Wrong(r"is not the one that the checkpoint was", data="words in another order, no stats", checkpoint="good"),
    # ---- the data
    Wrong(r"dict.txt does not exist; make the data with preprocess/prepare.sh", data="no dictionary"),
    Wrong(r"there is no split 'valid' in .*; it has test, train", data="no valid"),
    Wrong(r"valid.bin has no valid.idx beside it", data="no valid.idx"),
    Wrong(r"train.idx has no train.bin beside it", data="no train.bin"),
    Wrong(r"train.bin has 19392 bytes, train.idx speaks of 38784", data="half of train.bin"),
    Wrong(r"train.bin has 0 bytes, train.idx speaks of 38784", data="empty train.bin"),
    Wrong(r"train.bin has 38786 bytes, train.idx speaks of 38784", data="longer train.bin"),
    Wrong(r"train.idx is truncated or damaged", data="half of train.idx"),
    Wrong(r"valid.idx is no index of fairseq's", data="empty valid.idx"),
    Wrong(r"train.idx is no index of fairseq's", data="train.idx of text"),
    Wrong(r"train.bin is empty; prepare the data again", data="train of no lines"),
    Wrong(r"train.bin holds the word <pad>, which fairseq keeps for itself", data="a pad in train"),
    Wrong(r"needs data prepared with --documents", RESET, data="no documents"),
    Wrong(r"documents.npy is truncated or is not a numpy array", RESET, data="half of documents"),
    Wrong(r"documents.npy is truncated or is not a numpy array", RESET, data="empty documents"),
    *(
        Wrong(r"does not fit the 19392 tokens beside it", RESET, data=f"documents {name}")
        for name in ("outside", "of floats", "of pairs", "of none")
    ),
    Wrong(r"is not the dictionary that the data beside it was made with", data="other dictionary"),
    Wrong(
        r"train.bin holds token 71, dict.txt has 67 types|belongs to another corpus", data="other dictionary, no stats"
    ),
    Wrong(r"dict.txt cannot be read as a fairseq dictionary \(Incorrect dict", data="dictionary of nonsense"),
    Wrong(r"dict.txt cannot be read as a fairseq dictionary \(Incorrect encoding", data="dictionary of bytes"),
    Wrong(r"dict.txt cannot be read .*Duplicate word", data="dictionary with a word twice"),
    Wrong(r"dict.txt has no words", data="dictionary without words"),
    Wrong(r"stats.json is not what prepare.sh has written", data="half of stats"),
    Wrong(r"stats.json is not what prepare.sh has written", data="stats of something else"),
    Wrong(r"stats.json counts 19391 tokens of train, the data holds 19392", data="stats of another count"),
]

OVERRIDES = [
    ("{'ltm_ablation': 'zeros'}", r"--ltm-ablation must be one of none, zero, swap, got 'zeros'"),
    ("{'ltm_ablation': 'Zero'}", r"--ltm-ablation must be one of none, zero, swap, got 'Zero'"),
    ("{'ltm_ablation': None}", r"--ltm-ablation must be one of none, zero, swap, got None"),
    ("{'stm_length': '7'}", r"--stm-length must be a whole number, got '7'"),
    ("{'ltm_horizon': 1.5}", r"--ltm-horizon must be a whole number or None, got 1.5"),
    ("{'ltm_flat_start': 1}", r"--ltm-flat-start must be True or False, got 1"),
    ("{'tokens_per_sample': 4}", r"'tokens_per_sample', which is no setting of the model; give --tokens-per-sample"),
    ("{'lr': [1]}", r"'lr', which is no setting of the model; leave it out"),
    ("{'model': {'stm_length': 4}}", r"'model', which is no setting of the model; leave it out"),
]

EVALUATION = [
    Wrong(r"--context-window 4 does not apply", ["--context-window", 4]),
    Wrong(r"result of shard 0 of 2 alone", ["--num-shards", 2]),
    Wrong(r"result of shard 1 of 1 alone", ["--shard-id", 1]),
    Wrong(r"there is no split 'dev'", ["--gen-subset", "dev"]),
    Wrong(r"--batch-size must be 1 or more, got 0", ["--batch-size", 0]),
    Wrong(r"99 streams .* more than the \d+ segments", ["--batch-size", 99]),
    Wrong(r"prepare.sh --dict", data="other dictionary, no stats"),
    Wrong(r"16 functions of widths \(0.05, 0.2\), the model's has 8", ["--model-overrides", "{'ltm_basis': 8}"]),
    Wrong(r"another model \(size mismatch", ["--model-overrides", "{'decoder_embed_dim': 64}"]),
    Wrong(r"--model-overrides has 'ltm_ablaton', which", ["--model-overrides", "{'ltm_ablaton': 'zero'}"]),
    Wrong(r"--model-overrides takes a dict such as .* got '\{bad'", ["--model-overrides", "{bad"]),
    *(Wrong(message, ["--model-overrides", overrides]) for overrides, message in OVERRIDES),
    Wrong(r"--task streaming_language_modeling", ["--task", "language_modeling"]),
    Wrong(r"there is no checkpoint none.pt", ["--path", "none.pt"]),
    Wrong(r"--path a.pt:b.pt has a ':', which joins checkpoints", ["--path", "a.pt:b.pt"]),
    Wrong(r"give --path, the checkpoint", ["--path", None]),
    Wrong(r"test.bin holds the word <pad>", data="a pad in test"),
    Wrong(r"is truncated or is not a fairseq checkpoint", checkpoint="half"),
    Wrong(r"is damaged", checkpoint="a bit flipped"),
]

SCORING = [
    Wrong(r"there is no checkpoint none.pt", ["--path", "none.pt"]),
    Wrong(r"no checkpoint a.pt:b.pt; several joined by ':' are not scored", ["--path", "a.pt:b.pt"]),
    Wrong(r"is truncated or is not a fairseq checkpoint", checkpoint="empty"),
    Wrong(r"is truncated or is not a fairseq checkpoint", checkpoint="a list"),
    Wrong(r"holds no model with its settings", checkpoint="no model"),
    Wrong(r"--batch-size must be 1 or more, got 0", ["--batch-size", 0]),
    Wrong(r"--tokens-per-sample must be 1 or more, got 0", ["--tokens-per-sample", 0]),
    Wrong(r"--stm-length must be 0 or more, got -1", ["--stm-length", -1]),
    Wrong(r"there is no split 'dev'", ["--split", "dev"]),
    Wrong(r"--predictions none/p.npz: there is no such folder", ["--predictions", "none/p.npz"]),
    Wrong(r"there is no folder none; give --user-dir", ["--user-dir", "none"]),
    Wrong(r"is not the dictionary", data="other dictionary"),
    Wrong(r"test.bin holds the word <pad>", data="a pad in test"),
    Wrong(r"invalid choice: 'half'", ["--ablation", "half"]),
]

VALIDATION = [
    Wrong(r"give --batch-size, the number of streams", ["--batch-size", None]),
    Wrong(r"--ltm-ablation must be one of none, zero, swap", ["--model-overrides", "{'ltm_ablation': 'zeros'}"]),
    Wrong(r"give --document-boundaries", ["--model-overrides", "{'document_boundaries': 'reset'}"]),
]

# The splits as they lie in the raw folder (None: good ones), what is given beside them, and the error.
PREPARING = [
    ({"input.txt": "a"}, [], r"no train split, only input.txt; cut the text"),
    ({}, [], r"no train split, only nothing"),
    ({"train": "a"}, [], r"no valid split"),
    ({"train": "a", "valid": "b", "more-train": "c"}, [], r"2 candidates for train: more-train, train"),
    ({"train-test": "a", "valid": "b"}, [], r"could be two splits"),
    ({"train": "", "valid": "b"}, [], r"train has no text"),
    ({"train": "a", "valid": " \n\n\t\n"}, [], r"valid has no text"),
    ({"train": "\ufeff", "valid": "b"}, [], r"train has no text"),
    ({"train": "a", "valid": "a", "test": ""}, [], r"test has no text"),
    ({"train/sub/a": "a", "valid": "b"}, [], r"sub is not a file"),
    ({"train/.hidden": "a", "valid": "b"}, [], r"is an empty folder"),
    ({"train": b"one\ntwo\ncaf\xe9\n", "valid": "b"}, [], r"train is not UTF-8: byte 0xe9 at offset 11;"),
    ({"train": "one\n".encode("utf-16"), "valid": "b"}, [], r"is not UTF-8: byte 0xff at offset 0"),
    ({"train": b"\xed\xa0\x80\n", "valid": "b"}, [], r"is not UTF-8: byte 0xed at offset 0"),
    ({"train": "a", "valid": bytes(range(256))}, [], r"valid is not UTF-8: byte 0x80 at offset 128"),
    ({"train": "a </s> b", "valid": "b"}, [], r"has the word </s>, which fairseq keeps for itself"),
    ({"train": "a\rb\r", "valid": "b"}, [], r"train ends its lines with CR alone; convert it"),
    ({"train": "\u200b\n\ufeff \u2060\n", "valid": "b"}, [], r"train has no text"),
    ({"constrain": "a", "train.txt": "a", "test": "b"}, [], r"no valid split, only constrain, test, train.txt"),
    ({"mytrain": "a", "strain": "a", "myvalid": "b"}, [], r"2 candidates for train: mytrain, strain"),
    ({"train": "a", "valid.txt": "b", "validation": "b"}, [], r"2 candidates for valid: valid.txt, validation"),
    ({"train": "a\n<|endoftext|>\n", "valid": "b"}, ["--documents", "endoftext"], r"valid has no line <\|endoftext\|>"),
    ({"train": "a<|endoftext|>\n", "valid": "b"}, ["--documents", "endoftext"], r"train has <\|endoftext\|> in a line"),
    # the arguments
    (None, ["--vocab-size", 4], r"no room"),
    (None, ["--vocab-size", -1], r"no room"),
    (None, ["--vocab-size", "all"], r"invalid int value: 'all'"),
    (None, ["--workers", 0], r"at least 1"),
    (None, ["--stage", 3, "--stop-stage", 2], r"no range of stages"),
    (None, ["--stage", 2], r"stage 1 \(text\) of .* has not been done"),
    (None, ["--level", "bytes"], r"invalid choice: 'bytes'"),
    (None, ["--model-type", "bpe"], r"means nothing with --level word"),
    (None, ["--sentencepiece-model", "x"], r"means nothing with --level word"),
    (None, ["--dict", "x", "--vocab-size", 9], r"makes a new vocabulary, and another one is given"),
    (None, ["--dict", "x"], r"x cannot be read as a fairseq dictionary"),
    (None, ["--dict", "/dev/null"], r"/dev/null has no words"),
    (None, ["--documents", "wikitext"], r"no line ' = Title = '"),
    (None, ["--documents", "file"], r"needs folders, train is the file"),
    (None, ["--level", "sentencepiece", "--dict", "x"], r"give --sentencepiece-model too"),
    (None, ["--level", "sentencepiece", "--sentencepiece-model", "x"], r"cannot be read as one"),
    (None, ["--gpt2", "x"], r"--gpt2 means nothing with --level word; leave it out"),
    (None, ["--level", "gpt2"], r"--level gpt2 needs --gpt2"),
    (None, ["--level", "gpt2", "--gpt2", "x"], r"--gpt2 x has no vocab.json; give the folder of a GPT-2"),
    (None, ["--level", "gpt2", "--gpt2", "x", "--dict", "x"], r"--dict means nothing with --level gpt2"),
    (None, ["--raw", "/nowhere"], r"--raw /nowhere is not a folder"),
    (None, ["--dest", "/proc/none/x"], r"see that the files can be read, and that --dest can be written"),
    (None, ["--dest", "/dev/null"], r"--dest /dev/null is a file"),
    (None, ["--dest", "/nowhere/a:b"], r"--dest /nowhere/a:b has a ':', at which fairseq splits"),
]
