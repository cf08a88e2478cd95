"""Training and evaluation that score answers alone, on the sorting task, as a user runs them."""

import json

import numpy as np
import pytest
from command_line import as_flags, eval_lm, infformer_eval, logged, run_forked, train

from fairseq_infformer.errors import InputError
from fairseq_infformer.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

LENGTH, SEQUENCES = 90, 60
GENERATE = ["preprocess.generate_sorting", "--length", LENGTH, "--sequences", SEQUENCES]
READING = ["--tokens-per-sample", 28, "--document-boundaries", "reset", "--score", "answers", "--batch-size", 6]


@pytest.fixture(scope="module")
def sorting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sorting") / "data"
    run_forked(*GENERATE, "--dest", folder)
    return folder


def tokens_of(folder, split: str) -> np.ndarray:
    """Symbols 0 … 19, <answer> 20 and </answer> 21 of each sequence."""
    return np.fromfile(folder / f"{split}.bin", dtype=np.uint16).reshape(-1, LENGTH + 22).astype(int) - 4


def test_generate_sorting_writes_symbols_in_decreasing_order_of_counts(sorting):
    stats = json.loads((sorting / "stats.json").read_text())["splits"]
    for split, count in (("train", SEQUENCES), ("valid", SEQUENCES // 10), ("test", SEQUENCES // 10)):
        rows = tokens_of(sorting, split)
        assert len(rows) == count == stats[split]["documents"]
        for row in rows:
            counts = np.bincount(row[:LENGTH], minlength=20)
            assert len(counts) == 20
            assert row[LENGTH] == 20 and row[-1] == 21
            answer = row[LENGTH + 1 : -1].tolist()
            assert answer == sorted(range(20), key=lambda symbol: (-counts[symbol], symbol))


def test_generate_sorting_drifts_between_two_distributions(sorting):
    from preprocess.generate_sorting import sequences

    rows = sequences(np.random.default_rng(0), 4, 200_000)
    for row in rows:
        first, middle, last = (np.bincount(part, minlength=20) / len(part) for part in np.array_split(row, 3))
        assert np.abs(middle - (first + last) / 2).max() < 0.005  # it is linear in the place
        assert np.abs(first - last).max() > 0.01


def test_generate_sorting_repeats_for_the_same_arguments_and_refuses_others(sorting, tmp_path):
    run_forked(*GENERATE, "--dest", tmp_path / "again")
    for name in ("train.bin", "dict.txt", "stats.json"):
        assert (tmp_path / "again" / name).read_bytes() == (sorting / name).read_bytes()
    assert "nothing to do" in run_forked(*GENERATE, "--dest", tmp_path / "again").stdout
    refused = run_forked(*GENERATE, "--seed", 2, "--dest", tmp_path / "again", check=False)
    assert refused.returncode == 1 and "holds something else" in refused.stdout
    refused = run_forked(*GENERATE, "--length", 0, "--dest", tmp_path / "no", check=False)
    assert "--length must be 1 or more, got 0" in refused.stdout
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["infinite_former_lm_tiny", "compressive_transformer_lm_tiny"])
def test_score_answers_trains_and_scores_only_the_answers(arch, sorting, tmp_path):
    log = train(
        sorting,
        tmp_path,
        *READING,
        *as_flags(update_freq=4, max_epoch=2, log_interval=1, arch=arch, ltm_widths="0.05,0.2", compressive_length=8),
    ).stdout
    assert logged(log, "train_inner", "wpb") == [6 * 20.0] * 20  # four segments an update, of which one has answers
    for name in ("loss", "nll_loss", "accuracy"):
        assert logged(log, "valid", name)[-1] > 0
    assert logged(log, "valid", "loss")[-1] == pytest.approx(logged(log, "valid", "nll_loss")[-1], abs=0.01)
    refused = eval_lm(sorting, tmp_path / "checkpoint_last.pt", *READING, check=False)
    assert refused.returncode == 1 and "run infformer-eval, which can" in refused.stdout
    found = infformer_eval(
        sorting, tmp_path / "checkpoint_last.pt", "--batch-size", 6, "--predictions", tmp_path / "p.npz"
    )
    assert found["tokens"] == 20 * (SEQUENCES // 10)
    predictions = np.load(tmp_path / "p.npz")
    expected = tokens_of(sorting, "test")
    starts = np.arange(len(expected))[:, None] * (LENGTH + 22)
    assert predictions["offset"].tolist() == (starts + LENGTH + 1 + np.arange(20)).ravel().tolist()
    assert predictions["target"].tolist() == (expected[:, LENGTH + 1 : -1] + 4).ravel().tolist()
    assert found["accuracy"] == pytest.approx((predictions["target"] == predictions["predicted"]).mean())
    assert predictions["loss"].sum() == pytest.approx(found["nll"], rel=1e-5)


def test_score_answers_refuses_data_without_answers(documents):
    cfg = StreamingLanguageModelingConfig(data=str(documents), tokens_per_sample=16, score="answers")
    task = StreamingLanguageModelingTask.setup_task(cfg)
    with pytest.raises(InputError, match=r"needs the words <answer> and </answer>, which dict.txt lacks"):
        task.load_dataset("train")


def test_score_answers_refuses_an_answer_without_end(sorting, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in sorting.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tokens = np.fromfile(broken / "train.bin", dtype=np.uint16)
    tokens[-1] = 4
    tokens.tofile(broken / "train.bin")
    cfg = StreamingLanguageModelingConfig(data=str(broken), tokens_per_sample=16, score="answers")
    task = StreamingLanguageModelingTask.setup_task(cfg)
    with pytest.raises(InputError, match=r"train has 60 <answer> and 59 </answer>, which must alternate"):
        task.load_dataset("train")
