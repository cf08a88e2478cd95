"""What must not change a result: validation beside training, a second run, workers that read ahead."""

import sys
from collections.abc import Callable
from typing import Any

import fairseq_cli.eval_lm
import fairseq_cli.train
import pytest
import torch
from command_line import TASK, TINY, as_flags, scored

from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy

SAMPLINGS = ["uniform", "sticky", "sticky-quantile"]
RESET = ["--document-boundaries", "reset"]


@pytest.fixture
def training(documents, tmp_path, monkeypatch) -> Callable[..., tuple[list[float], list[float], dict[str, Any]]]:
    """Runs fairseq-train: every loss of training and of validation in full, and the weights at the end."""

    def train(*flags: object) -> tuple[list[float], list[float], dict[str, Any]]:
        losses: dict[bool, list[float]] = {True: [], False: []}
        models = []

        def forward(criterion: LtmCrossEntropy, model: Any, *arguments: Any, **named: Any) -> Any:
            result = plain(criterion, model, *arguments, **named)
            losses[model.training].append(float(result[0]))
            models[:] = [model]
            return result

        plain = LtmCrossEntropy.forward
        command = ["fairseq-train", documents, *TASK, *TINY, *RESET, "--save-dir", tmp_path, "--no-save"]
        command += ["--num-workers", 0, *flags]
        with monkeypatch.context() as patch:
            patch.setattr(LtmCrossEntropy, "forward", forward)
            patch.setattr(sys, "argv", [str(part) for part in command])
            fairseq_cli.train.cli_main()
        return losses[True], losses[False], models[0].state_dict()

    return train


@pytest.mark.parametrize(("sampling", "update_freq"), [("uniform", 1), ("sticky", 1), ("sticky", 2)])
def test_validation_leaves_training_unchanged(sampling, update_freq, training):
    """An epoch and a part of the next, validated in the middle of both and between them."""
    flags = as_flags(
        train_subset="test",  # as long as that of validation
        tokens_per_sample=20,
        batch_size=3,
        update_freq=update_freq,
        ltm_sampling=sampling,
        dropout=0.1,
        attention_dropout=0.1,
        max_update=22 // update_freq,
    )
    alone, not_validated, weights = training(*flags, "--disable-validation")
    beside, validated, same_weights = training(*flags, "--validate-interval-updates", 3, "--batch-size-valid", 4)
    assert not_validated == []
    assert len(validated) > 25
    assert len(alone) >= 20 and alone == beside  # an epoch has 13
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)


@pytest.fixture
def evaluation(documents, trained, monkeypatch, caplog) -> Callable[..., tuple[float, list[int]]]:
    """Runs fairseq-eval-lm on the test split: the mean loss in full, and the tokens that were scored."""

    def evaluate(*flags: object) -> tuple[float, list[int]]:
        tokens, results = [], []

        def generate(scorer: Any, models: list, sample: dict, **named: Any) -> Any:
            hypotheses = generate_plain(scorer, models, sample, **named)
            tokens.extend(token for row in hypotheses for token in row[0]["tokens"].tolist())
            return hypotheses

        def eval_lm(*arguments: Any, **named: Any) -> dict[str, float]:
            results.append(eval_plain(*arguments, **named))
            return results[0]

        generate_plain, eval_plain = fairseq_cli.eval_lm.SequenceScorer.generate, fairseq_cli.eval_lm.eval_lm
        command = ["fairseq-eval-lm", documents, *TASK, "--path", trained[0], "--gen-subset", "test", "--cpu"]
        command += ["--num-workers", 0, *flags]
        caplog.clear()
        with monkeypatch.context() as patch, caplog.at_level("INFO"):
            patch.setattr(fairseq_cli.eval_lm.SequenceScorer, "generate", generate)
            patch.setattr(fairseq_cli.eval_lm, "eval_lm", eval_lm)
            patch.setattr(sys, "argv", [str(part) for part in command])
            fairseq_cli.eval_lm.cli_main()
        assert scored(caplog.text) == len(tokens)
        return float(results[0]["loss"]), tokens

    return evaluate


@pytest.fixture(scope="module")
def corpus(documents) -> list[int]:
    """The tokens of the test split, in order."""
    from fairseq.data import data_utils

    return torch.cat(list(data_utils.load_indexed_dataset(str(documents / "test"), None))).tolist()


def test_evaluation_repeats_to_the_bit_with_every_sampling_and_with_workers(evaluation):
    segments, losses = ["--tokens-per-sample", 16, "--batch-size", 4, *RESET], []
    for sampling in SAMPLINGS:
        flags = [*segments, "--model-overrides", {"ltm_sampling": sampling}]
        loss, _ = evaluation(*flags)
        assert evaluation(*flags, "--num-workers", 2, "--data-buffer-size", 0)[0] == loss
        losses.append(loss)
    assert len(set(losses)) == len(SAMPLINGS)


@pytest.mark.parametrize(
    ("batch_size", "tokens_per_sample", "boundaries"),
    [(1, 500, "ignore"), (3, 7, "ignore"), (5, 64, "reset"), (7, 33, "reset"), (13, 3, "ignore"), (4, 5000, "reset")],
)
def test_evaluation_scores_every_token_of_the_corpus_once(
    batch_size, tokens_per_sample, boundaries, evaluation, corpus
):
    flags = ["--batch-size", batch_size, "--tokens-per-sample", tokens_per_sample, "--document-boundaries", boundaries]
    _, tokens = evaluation(*flags)
    assert sorted(tokens) == sorted(corpus)
