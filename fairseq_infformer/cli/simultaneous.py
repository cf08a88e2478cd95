"""Translate recordings while they would be heard, and report how well, how late and at what cost."""

import argparse
import json
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import sacrebleu
import torch
from fairseq import checkpoint_utils
from torch import Tensor

from fairseq_infformer.errors import InputError, install_one_line_messages, one_line, option
from fairseq_infformer.models.simultaneous import Clock, Translator, Word
from fairseq_infformer.models.streaming_translation import ALL, StreamingTranslation
from fairseq_infformer.speech.accuracy import word_accuracy
from fairseq_infformer.speech.corpus import read_table
from fairseq_infformer.speech.latency import Timing, latency
from fairseq_infformer.speech.log_mel import SHIFT_MS, LogMel
from fairseq_infformer.speech.wav import read_wav

PART_MS = 40  # of audio that is heard at once
PIECE = "▁"  # begins a word of sentencepiece


class Audio(NamedTuple):
    """How a model hears: its features, and what they are normalised by, (bins,) each."""

    features: LogMel
    mean: Tensor
    deviation: Tensor


def load(path: str, data: Path) -> tuple[StreamingTranslation, Any]:
    """The model of a checkpoint and its task for the folder ``data``; InputError if it is no such model."""
    if not Path(path).is_file():
        raise InputError(f"--path {path} does not exist; give a checkpoint that does")
    try:
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"data": str(data)})
    except InputError:
        raise
    except Exception as error:  # of fairseq
        raise InputError(f"--path {path} cannot be loaded ({one_line(error, with_type=True)}); give another") from error
    if not isinstance(models[0], StreamingTranslation):
        raise InputError(f"--path {path} is no model of speech translation; give one of --arch streaming_translation")
    return models[0].eval(), task


def hearing(task: Any) -> Audio:
    """How the models of a data folder hear; InputError if the folder was not made by prepare_speech.sh."""
    stats = task.data_cfg.config.get("global_cmvn", {}).get("stats_npz_path")
    if stats is None:
        raise InputError(f"{task.args.data} has no means of features; give a data folder made by prepare_speech.sh")
    with np.load(stats) as arrays:
        mean, deviation = (torch.from_numpy(arrays[name]) for name in ("mean", "std"))
    return Audio(LogMel(task.data_cfg.sample_rate, task.data_cfg.input_feat_per_channel), mean, deviation)


def joined(rows: list[dict[str, str]], audio: list[Tensor], rate: int, seconds: float) -> list[list[int]]:
    """The numbers of the utterances of each stream: those that follow each other in the speech of one speaker, until
    the stream has this many seconds."""
    streams: list[list[int]] = []
    length = 0.0
    for number, row in enumerate(rows):
        same = number and row.get("speaker") == rows[number - 1].get("speaker")
        if not same or length >= seconds:
            streams.append([])
            length = 0.0
        streams[-1].append(number)
        length += len(audio[number]) / rate
    return streams


def translate(translator: Translator, samples: Tensor, audio: Audio) -> None:
    """Let a translator hear the samples (S,) of a stream, a part at a time."""
    waiting, size = samples[:0], audio.features.rate * PART_MS // 1000
    for start in range(0, len(samples), size):
        translator.clock.wait_for(1000 * min(start + size, len(samples)) / audio.features.rate)
        with translator.clock.working():
            frames, waiting = audio.features.push(waiting, samples[start : start + size])
        translator.hear((frames - audio.mean) / audio.deviation, last=start + size >= len(samples))


def spelled(words: list[Word], dictionary: Any, pieces: bool) -> list[tuple[str, float, float]]:
    """Words with their delays and elapsed times; a word of several pieces comes with its last."""
    whole: list[tuple[str, float, float]] = []
    for token, delay, elapsed in words:
        symbol = dictionary[token]
        if pieces and not symbol.startswith(PIECE) and whole:
            whole[-1] = (whole[-1][0] + symbol, delay, elapsed)
        else:
            whole.append((symbol.removeprefix(PIECE) if pieces else symbol, delay, elapsed))
    return whole


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Translate a split; what is reported of it."""
    rows = read_table(args.data / f"{args.split}.tsv", "tgt_text")
    if "wav" not in rows[0]:
        raise InputError(f"{args.data / args.split}.tsv has no column wav; give a data folder of prepare_speech.sh")
    model, task = load(args.path, args.data)
    audio, pieces = hearing(task), "bpe_tokenizer" in task.data_cfg.config
    rows = rows[: args.utterances]
    rate = audio.features.rate
    samples = [read_wav(Path(row["wav"]), rate) for row in rows]
    timings, hypotheses, references, per_segment = [], [], [], []
    for stream in joined(rows, samples, rate, args.join):
        # By what the policy takes for an utterance: how long it is, and its translation.
        utterances = [stream] if args.unbroken else [[number] for number in stream]
        lengths = [sum(len(samples[number]) for number in numbers) for numbers in utterances]
        texts = [" ".join(rows[number]["tgt_text"] for number in numbers) for numbers in utterances]
        if not args.quiet:
            print(f"{rows[stream[0]]['id']}:", end="", flush=True)

        def written(utterance: int, token: int) -> None:
            if not args.quiet:
                symbol = task.target_dictionary[token]
                print(symbol.replace(PIECE, " ") if pieces else f" {symbol}", end="", flush=True)

        translator = Translator(
            model,
            args.wait_k,
            [end // audio.features.shift for end in accumulate(lengths)],
            frame_ms=SHIFT_MS,
            step=args.step,
            clock=Clock(args.real_time),
            written=written,
        )
        translate(translator, torch.cat([samples[number] for number in stream]), audio)
        if not args.quiet:
            print()
        per_segment += translator.encoder_times
        for length, reference, words in zip(lengths, texts, translator.translations):
            text = spelled(words, task.target_dictionary, pieces)
            source = 1000 * length / rate
            delays = [min(delay, source) for _, delay, _ in text]
            timings.append(Timing(source, len(reference.split()), delays, [late for _, _, late in text]))
            hypotheses.append(" ".join(word for word, _, _ in text))
            references.append(reference)
    return {
        "utterances": len(rows),
        "word accuracy": word_accuracy(hypotheses, references),
        "BLEU": sacrebleu.corpus_bleu(hypotheses, [references]).score,
        "chrF": sacrebleu.corpus_chrf(hypotheses, [references]).score,
        **latency(timings),
        "ms per segment": sum(per_segment) / max(1, len(per_segment)),
        "ms of the last tenth of segments": float(np.mean(per_segment[-max(1, len(per_segment) // 10) :] or [0.0])),
    }


def reads(text: str) -> Optional[int]:
    """k of ``--wait-k``, for argparse."""
    if text == ALL:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, or {ALL}, got {text}")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(prog="infformer-simultaneous", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder of prepare_speech.sh")
    parser.add_argument("--path", required=True, metavar="CHECKPOINT", help="of a model of speech translation")
    parser.add_argument("--split", default="test", help="of the data (default: %(default)s)")
    parser.add_argument(
        "--wait-k", type=reads, default=3, metavar="K", help=f"reads before the first word, or {ALL} (default: 3)"
    )
    parser.add_argument(
        "--join",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="join utterances of a speaker to streams of this length: the memory stays, the policy begins anew with "
        "each (default: one stream per utterance)",
    )
    parser.add_argument(
        "--unbroken",
        action="store_true",
        help="treat each stream as one utterance: the policy does not begin anew in it",
    )
    parser.add_argument(
        "--step",
        type=int,
        default=64,
        metavar="FRAMES",
        help="for an encoder of whole utterances: frames after which all is encoded again (default: %(default)s)",
    )
    parser.add_argument("--utterances", type=int, metavar="N", help="the first N of the split (default: all)")
    parser.add_argument("--real-time", action="store_true", help="let audio take its time, rather than count it")
    parser.add_argument("--quiet", action="store_true", help="print no words")
    parser.add_argument("--json", action="store_true", help="print the figures alone, as JSON")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    for name in ("step", "utterances"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise InputError(f"{option(name)} must be 1 or more, got {value}")
    args.quiet |= args.json
    figures = run(args)
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name}: {value if isinstance(value, int) else round(value, 3)}")


if __name__ == "__main__":
    install_one_line_messages()
    main()
