"""Tasks of your own text for lm_eval: perplexity of whole documents, and facts in the middle of them.

  python -m recipes.lm_eval.tasks --raw DIR --dest TASKS --name novels --documents file --needles 1000,4000,16000
  infformer-lm-eval --model infformer --model_args pretrained=MODEL --include_path TASKS --tasks novels

DIR is a folder as preprocess/prepare.sh takes it. TASKS gets for the name NAME

  NAME           the log-likelihood of each document, read in one pass; words and bytes are those of prepare.sh, so
                 that word_perplexity and bits_per_byte are those of infformer-eval
  NAME_needle_N  "The secret number of Lisbon is 4711.", three more such sentences, N words of a document, and "The
                 secret number of Lisbon is", which one of the four numbers completes; a guess is right in 25 %

Paths in TASKS are absolute. Another call with another name adds its tasks.
"""

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from fairseq_infformer.data import corpus
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import replacing

BEFORE = 200  # words of the document before the facts: what comes first may be remembered in another way
CITIES = [
    "Athens",
    "Berlin",
    "Cairo",
    "Dublin",
    "Geneva",
    "Havana",
    "Lisbon",
    "London",
    "Madrid",
    "Moscow",
    "Naples",
    "Oslo",
    "Paris",
    "Prague",
    "Rome",
    "Vienna",
]
CHOICES = 4
COUNTS = Path(__file__).with_name("counts.py")

PERPLEXITY = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
process_results: !function counts.process_results
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
metadata:
  version: 1
"""
NEEDLE = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
metadata:
  version: 1
"""


def documents(raw: Path, split: str, rule: str | None) -> list[str]:
    """The documents of a split, cleaned as prepare.sh does it."""
    splits = corpus.find_splits(raw)
    if split not in splits:
        raise InputError(f"--raw {raw} has no {split} split; choose one of {', '.join(splits)}")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text"
        _, starts = corpus.clean(corpus.files_of(splits[split]), text, rule)
        lines = text.read_text(encoding="utf-8").split("\n")
    lines = [f"{line}\n" for line in lines[:-1]]
    return ["".join(lines[first:last]) for first, last in pairwise([*starts, len(lines)])]


def perplexity_docs(texts: Sequence[str]) -> list[dict]:
    return [
        {"text": text, "words": len(text.split()) + text.count("\n"), "bytes": len(text.encode())} for text in texts
    ]


def needle_docs(texts: Sequence[str], distance: int, number: int, seed: int) -> list[dict]:
    """Questions after ``distance`` words of the documents; InputError if none is so long."""
    rng = np.random.default_rng([seed, distance])
    words = [re.findall(r"\S+\s*", text) for text in texts]
    long = [document for document in words if len(document) >= BEFORE + distance]
    if not long:
        longest = max(map(len, words))
        raise InputError(
            f"--needles {distance} needs a document of {BEFORE + distance} words, the longest has {longest}"
        )
    docs = []
    for _ in range(number):
        document = long[rng.integers(len(long))]
        first = int(rng.integers(len(document) - BEFORE - distance + 1))
        before, after = document[first : first + BEFORE], document[first + BEFORE : first + BEFORE + distance]
        cities = rng.choice(CITIES, CHOICES, replace=False)
        values = [str(value) for value in rng.choice(np.arange(1000, 10000), CHOICES, replace=False)]
        facts = "".join(f"The secret number of {city} is {value}.\n" for city, value in zip(cities, values))
        asked = int(rng.integers(CHOICES))
        parts = ["".join(before).rstrip(), facts + "".join(after).rstrip(), f"The secret number of {cities[asked]} is"]
        docs.append({"context": "\n\n".join(parts), "choices": values, "answer": asked})
    return docs


def write(dest: Path, name: str, template: str, docs: Sequence[dict]) -> None:
    """Write a task and its documents."""
    file = dest.resolve() / f"{name}.jsonl"
    with replacing(file) as new:
        new.write_text("".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs), encoding="utf-8")
    (dest / f"{name}.yaml").write_text(template.format(name=name, file=json.dumps(str(file))), encoding="utf-8")
    print(f"{name}: {len(docs)} documents")


def numbers(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"takes positive numbers with commas between, got {text}")
    return [int(number) for number in text.split(",")]


def task_name(text: str) -> str:
    if not re.fullmatch(r"\w+", text):
        raise argparse.ArgumentTypeError(f"takes letters, digits and underscores, got {text}")
    return text


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="folder of the text")
    parser.add_argument("--dest", type=Path, required=True, metavar="TASKS", help="folder of the tasks")
    parser.add_argument("--name", type=task_name, required=True, help="of the tasks")
    parser.add_argument("--split", choices=corpus.SPLITS, default="test", help="(default: %(default)s)")
    parser.add_argument("--documents", choices=corpus.DOCUMENT_RULES, help="where documents start, as for prepare.sh")
    parser.add_argument("--needles", type=numbers, default=[], metavar="N,N", help="words between facts and questions")
    parser.add_argument(
        "--questions", type=int, default=40, metavar="N", help="of each distance (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the facts and where they stand (default: %(default)s)")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    texts = documents(args.raw, args.split, args.documents)
    tasks = {args.name: (PERPLEXITY, perplexity_docs(texts))}
    for distance in args.needles:
        docs = needle_docs(texts, distance, args.questions, args.seed)
        tasks[f"{args.name}_needle_{distance}"] = NEEDLE, docs
    args.dest.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(COUNTS, args.dest / COUNTS.name)
    for name, (template, docs) in tasks.items():
        write(args.dest, name, template, docs)


if __name__ == "__main__":
    install_one_line_messages()
    main()
