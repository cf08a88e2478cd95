"""The retention benchmark in small: its table, its files, and that it can tell the contractions apart."""

import json

from command_line import run_forked


def test_retention_prints_and_plots_r_squared_by_age(tmp_path):
    size = ("--segments", 20, "--length", 64, "--channels", 8, "--basis", 256, "--samples", 256, "--noise", 0.5)
    done = run_forked("recipes.benchmarks.retention", *size, "--out", tmp_path)
    found = json.loads((tmp_path / "retention.json").read_text())["r_squared_by_age"]
    assert all(len(r_squared) == 20 for r_squared in found.values())
    assert min(found["proportional"]) > 0.8
    assert found["fixed, τ = 0.5"][10] < 0 < found["fixed, τ = 0.9"][10]
    row = next(line for line in done.stdout.splitlines() if "proportional" in line)
    assert [float(value) for value in row.split("|")[2:-1]] == [
        round(found["proportional"][a], 2) for a in (0, 1, 2, 4, 8, 16)
    ]
    assert (tmp_path / "retention.png").read_bytes().startswith(b"\x89PNG")
