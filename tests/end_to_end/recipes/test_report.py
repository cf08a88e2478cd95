"""What is kept of the results is what RESULTS.md shows, and what the plots are made of."""

import json

import pytest
from command_line import ROOT, run_forked, run_here

from recipes import plot, report

KEPT = sorted((ROOT / "recipes/results").glob("*.json"))


def test_report_equals_the_kept_logs():
    run_forked("recipes.report", "--check")
    shown = report.RESULTS.read_text()
    for file in KEPT:
        assert f"<!-- {file.stem} -->" in shown, f"{file.name} is kept, but RESULTS.md has no table of it"


def test_report_check_finds_a_figure_that_was_changed_by_hand():
    text = report.RESULTS.read_text()
    table = report.MARKED.search(text)[0]
    digit = next(place for place, sign in enumerate(table) if sign.isdigit() and place > len(table) // 2)
    changed = table[:digit] + str((int(table[digit]) + 1) % 10) + table[digit + 1 :]
    assert report.report(text.replace(table, changed), ROOT / "recipes/results") == text


def test_report_names_a_table_without_its_log(tmp_path):
    with pytest.raises(SystemExit, match=r"RESULTS.md has a table sorting-x, but there is no .*sorting-x.json"):
        report.report("<!-- sorting-x -->\n<!-- end of sorting-x -->", tmp_path)


def test_kept_logs_have_commit_and_hardware():
    for file in KEPT:
        results = json.loads(file.read_text())
        for source in results.get("runs") or [results]:
            source = {**results, **source}
            assert source["commits"] and source["hardware"] and source["command"]
            assert all(not commit.endswith("+") for commit in source["commits"]), f"{file.name}: a changed checkout"
        assert "/tmp/" not in file.read_text() and "/root/" not in file.read_text()


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_plot_draws_all_results(file, tmp_path):
    code, text = run_here(plot.main, file, "--out", tmp_path)
    assert code == 0, text
    plots = list(tmp_path.glob("*.png"))
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in plots)
    assert plots or json.loads(file.read_text())["kind"] in (
        "memory",
        "retention",
        "gpu",
    )  # which draw their own, or none


def test_overview_has_the_best_of_each_task_in_bold():
    lines = [line for line in report.overview(ROOT / "recipes/results").splitlines() if line.startswith("| [")]
    (books,) = [line for line in lines if "[books-small]" in line]
    # One seed each; a perplexity is better where it is lower.
    assert [cell.strip() for cell in books.split("|")[3:7]] == ["**1372.2**", "1389.5", "1412.5", "1384.1"]
    (sorting,) = [line for line in lines if "[sorting-4000]" in line]
    assert "| **36.8 ± 2.0** |" in sorting and "| 20.7 ± 1.1 " in sorting
