"""Quality, latency and cost of the encoders of recipes/digits_speech: tables, and DIR/results.json.

Mean and standard deviation are over seeds. results.json has every score with all measures of infformer-simultaneous.
"""

import argparse
import json
import re
from pathlib import Path

from recipes import runs
from recipes.digits_speech.rows import ROWS
from recipes.runs import Record

LATENCY = ("AL", "LAAL", "DAL", "AP")
NAMES = {"inf": "∞"}


def collect(root: Path, split: str, command: str) -> Record:
    """All runs under ``root``, the folder of run.sh, of which ``split`` was scored."""
    found = []
    for folder in sorted(root.glob("*-seed*")):
        name = re.fullmatch(r"(.+)-seed(\d+)", folder.name)
        files = sorted(folder.glob(f"{split}-k*-*.json"))
        if not (name and name[1] in ROWS and files):
            continue
        cost = folder / "cost.json"
        scores = []
        for file in files:
            k, stream = re.fullmatch(rf"{split}-k(\w+)-(\w+)", file.stem).groups()
            scores.append({"k": k, "stream": stream} | read(file))
        found.append(
            {"memory": name[1], "seed": int(name[2])}
            | runs.training(folder)
            | {"recognition": runs.training(root / f"recognition-{folder.name}")}
            | {"scores": scores, "cost": read(cost) if cost.exists() else None}
        )
    found.sort(key=lambda run: (list(ROWS).index(run["memory"]), run["seed"]))
    command = runs.full_command(command, found, "encoder")
    return {"kind": "speech-translation", "command": command, "split": split, "runs": found}


def read(file: Path) -> Record:
    return json.loads(file.read_text(encoding="utf-8"))


def scored(results: Record, encoder: str, stream: str, k: str) -> list[Record]:
    """The scores of an encoder, by seed."""
    return [
        score
        for run in results["runs"]
        for score in run["scores"]
        if (run["memory"], score["stream"], score["k"]) == (encoder, stream, k)
    ]


def conditions(results: Record) -> tuple[list[str], list[str]]:
    """The streams, from the shortest, and every k, from the least."""
    scores = [score for run in results["runs"] for score in run["scores"]]
    streams, waits = ({score[name] for score in scores} for name in ("stream", "k"))
    return sorted(streams, key=_number), sorted(waits, key=_number)


def encoders(results: Record) -> dict[str, list[Record]]:
    """The runs of each encoder."""
    return {encoder: seeds for (encoder,), seeds in runs.grouped(results["runs"], "memory").items()}


def table(results: Record) -> str:
    """Word accuracy by stream and k, all measures of the middle stream, and the time per segment."""
    streams, waits = conditions(results)
    middle = [stream for stream in streams if _number(stream) < _number("inf")]
    middle = middle[len(middle) // 2]
    parts = [
        _trainings(results),
        _accuracies(results, streams, waits),
        f"Word accuracy of the {results['split']} split, 100 (1 - word error rate), by the streams to which its "
        "utterances are joined (unbroken: the policy does not begin anew with an utterance) and by k.",
        _measures(results, middle, waits),
        f"Streams of {middle}; latency in ms, AP as a share; _CA: with the time that computation takes.",
    ]
    if any(run["cost"] for run in results["runs"]):
        parts += [_costs(results), "The encoder's time per segment in ms, by the seconds that it has heard."]
    return "\n\n".join(parts)


def _trainings(results: Record) -> str:
    rows = []
    for encoder, seeds in encoders(results).items():
        first = [run["recognition"] for run in seeds]
        row = [encoder, ROWS[encoder].label, f"{seeds[0]['parameters']:,}", str(len(seeds))]
        for each in (first, seeds):
            row += [f"{each[0]['updates']:,}", runs.duration(each)]
        rows.append(row)
    header = ["encoder", "what it is", "parameters", "seeds", "updates of recognition", "training"]
    return runs.markdown([*header, "updates of translation", "training"], rows)


def _accuracies(results: Record, streams: list[str], waits: list[str]) -> str:
    rows = []
    for encoder in encoders(results):
        row = [encoder]
        for stream in streams:
            for k in waits:
                if any(scored(results, name, stream, k) for name in encoders(results)):
                    row.append(_spread(scored(results, encoder, stream, k), "word accuracy"))
        rows.append(row)
    header = [
        f"{stream}, k = {NAMES.get(k, k)}"
        for stream in streams
        for k in waits
        if any(scored(results, name, stream, k) for name in encoders(results))
    ]
    return runs.markdown(["encoder", *header], rows)


def _measures(results: Record, stream: str, waits: list[str]) -> str:
    rows = []
    for encoder in encoders(results):
        for k in waits:
            scores = scored(results, encoder, stream, k)
            row = [encoder, NAMES.get(k, k), *(_spread(scores, name) for name in ("word accuracy", "BLEU", "chrF"))]
            for name in LATENCY:
                digits = 2 if name == "AP" else 0
                row += [_spread(scores, name, digits), _spread(scores, f"{name}_CA", digits)]
            rows.append([*row, _spread(scores, "ms per segment")])
    measures = [f"{name}{suffix}" for name in LATENCY for suffix in ("", "_CA")]
    header = ["encoder", "k", "word accuracy", "BLEU", "chrF", *measures, "ms per segment"]
    return runs.markdown(header, rows)


def _costs(results: Record) -> str:
    heard = sorted({seconds for run in results["runs"] if run["cost"] for seconds in run["cost"]["heard"]})
    rows = []
    for encoder, seeds in encoders(results).items():
        known = [dict(zip(run["cost"]["heard"], run["cost"]["milliseconds"])) for run in seeds if run["cost"]]
        times = ([run[seconds] for run in known if seconds in run] for seconds in heard)
        rows.append([encoder, *(runs.spread(each) if each else "" for each in times)])
    return runs.markdown(["encoder", *(f"{seconds:,} s" for seconds in heard)], rows)


def _spread(scores: list[Record], name: str, digits: int = 1) -> str:
    """A measure of scores; nothing of those without, such as the latency of translations without words."""
    values = [score[name] for score in scores if name in score]
    return runs.spread(values, digits) if values else ""


def _number(text: str) -> float:
    """The number that a name of a stream or k begins with; names without one come last."""
    found = re.match(r"\d+", text)
    return float(found[0]) if found else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the folder of run.sh, --dir")
    parser.add_argument("--split", required=True, choices=["valid", "test"], help="that was scored")
    parser.add_argument("--command", required=True, help="what made it")
    args = parser.parse_args()
    runs.show_and_keep(args.dir, collect(args.dir, args.split, args.command), table)


if __name__ == "__main__":
    main()
