"""BLEU and chrF of what fairseq-generate has written, by sacrebleu: SPLIT.json beside each SPLIT.txt."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import replacing

BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+")  # pieces of sentencepiece for what has no other


def translations(generated: str) -> list[str]:
    """The detokenised hypotheses in the order of the sources, with characters in place of the bytes that spell them."""
    lines = re.findall(r"^D-(\d+)\t\S+\t(.*)$", generated, re.MULTILINE)
    return [BYTES.sub(_characters, text) for _, text in sorted((int(number), text) for number, text in lines)]


def _characters(found: re.Match) -> str:
    return bytes.fromhex(re.sub("<0x|>", "", found[0])).decode(errors="replace")


def score(file: Path, reference: Path) -> dict[str, Any]:
    """Scores with their signatures; InputError unless every sentence of the reference is translated."""
    if not file.exists():
        raise InputError(f"{file} does not exist; translate first")
    found = translations(file.read_text(encoding="utf-8"))
    sentences = reference.read_text(encoding="utf-8").splitlines()
    if len(found) != len(sentences):
        raise InputError(
            f"{file} has {len(found)} translations, but {reference} {len(sentences)} sentences; translate that split"
        )
    scores: dict[str, Any] = {"sentences": len(found)}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        scores[name] = round(metric.corpus_score(found, [sentences]).score, 3)
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="output of fairseq-generate")
    parser.add_argument("--reference", type=Path, required=True, help="a file with a sentence per line")
    args = parser.parse_args()
    scores = [score(file, args.reference) for file in args.files]
    for file, one in zip(args.files, scores):
        with replacing(file.with_suffix(".json")) as new:
            new.write_text(json.dumps(one) + "\n", encoding="utf-8")


if __name__ == "__main__":
    install_one_line_messages()
    main()
