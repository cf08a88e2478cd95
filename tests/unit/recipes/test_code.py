"""The corpus of recipes/code: which modules it has, and in which split."""

from recipes.code import collect


def test_collect_splits_a_library_by_the_names_of_its_modules(tmp_path):
    names = [f"package{number}/module" for number in range(60)] + ["package0/test/module", "top"]
    for name in names:
        file = tmp_path / "library" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {name}\n" * 1000)
    (tmp_path / "library/short.py").write_text("x = 1\n")
    counts = collect.collect(tmp_path / "library", tmp_path / "raw")
    found = {split: {file.stem for file in (tmp_path / "raw" / split).iterdir()} for split in counts}
    assert {split: len(stems) for split, stems in found.items()} == counts
    assert set.union(*found.values()) == {f"package{number}.module" for number in range(60)} | {"top"}
    assert sum(counts.values()) == 61 and counts["train"] > 40 and counts["valid"] and counts["test"]
    (tmp_path / "library/top.py").unlink()
    after = collect.collect(tmp_path / "library", tmp_path / "again")
    assert sum(after.values()) == 60, "other modules stay where they were"
    assert not list(tmp_path.glob("*.partial"))
