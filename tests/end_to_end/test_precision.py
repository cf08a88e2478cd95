"""Training in half precision: what works, what is refused, and what stays in float32 all the same."""

from itertools import islice
from typing import Any

import pytest
import torch
from command_line import eval_lm, logged, perplexity, train
from in_process import memory_of, start, training_configuration

from fairseq_infformer.errors import InputError
from fairseq_infformer.plugin.hooks import choose_precision

SETTINGS = ["--tokens-per-sample", 16, "--document-boundaries", "reset", "--batch-size", 24, "--batch-size-valid", 4]


@pytest.mark.slow
def test_bf16_stays_within_2_percent_of_float32(documents, tmp_path):
    """On a CPU, by the command that its --bf16 would send to a TPU; what was trained so is scored in float32."""
    found = {}
    for name, flags in (("float32", []), ("bf16", ["--bf16"])):
        settings = [*SETTINGS, "--lr", "1e-2", "--max-update", 200, "--no-epoch-checkpoints", *flags]
        log = train(documents, tmp_path / name, *settings).stdout
        found[name] = logged(log, "valid", "ppl")[-1]
    assert found["float32"] < 58, "it has learned something: a guess among the types has 65"
    assert found["bf16"] == pytest.approx(found["float32"], rel=0.02)
    assert found["bf16"] != found["float32"]
    flags = ["--tokens-per-sample", 16, "--document-boundaries", "reset", "--gen-subset", "valid", "--batch-size", 4]
    text = eval_lm(documents, tmp_path / "bf16" / "checkpoint_last.pt", *flags).stdout
    assert perplexity(text) == pytest.approx(found["bf16"], rel=0.005)


def losses(documents: Any, tmp_path: Any, *flags: str, check_precision: bool = True) -> tuple[list[float], Any]:
    """The losses of 54 updates, and the trainer."""
    cfg = training_configuration(documents, tmp_path, *SETTINGS, "--lr", "1e-2", "--dropout", 0.1, *flags)
    trainer, batches = start(cfg, check_precision)
    found = [trainer.train_step([batch])["loss"] for batch in islice(batches, 54)]
    return found, trainer


@pytest.fixture(scope="module")
def exact(documents, tmp_path_factory) -> list[float]:
    """The losses in float32."""
    return losses(documents, tmp_path_factory.mktemp("exact"))[0]


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        (["--bf16"], torch.bfloat16),
        (["--memory-efficient-bf16"], torch.bfloat16),
        (["--amp"], torch.float32),  # torch turns it off where there is no CUDA
        # fairseq has no loss scaling for a CPU that outlives an overflow, so the command refuses these two. None
        # occurs here, and the model's part is the same everywhere.
        (["--fp16", "--fp16-no-flatten-grads"], torch.float16),
        (["--memory-efficient-fp16"], torch.float16),
    ],
)
def test_every_precision_trains_with_the_memory_in_float32(flags, dtype, exact, documents, tmp_path):
    found, trainer = losses(documents, tmp_path, *flags, check_precision=dtype != torch.float16)
    model = trainer.get_model()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert sum(found[-5:]) / 5 == pytest.approx(sum(exact[-5:]) / 5, rel=0.02)
    assert found[-1] < found[0] - 1
    for layer, state in zip(model.decoder.layers, memory_of(trainer)):
        assert state.recent.hidden.dtype == dtype
        assert state.long_term.coefficients.dtype == state.report.density.variance.dtype == torch.float32
        memory = layer.long_term_memory
        assert memory.memory.basis.centers.dtype == memory.attention.coarse_basis.single_centers.dtype == torch.float32
        assert bool(state.long_term.coefficients.any())


def test_fp16_is_refused_on_a_cpu(documents, tmp_path):
    done = train(documents, tmp_path / "save", *SETTINGS, "--max-update", 1, "--fp16", check=False)
    assert done.returncode == 1
    assert "error: --fp16 trains on GPUs only; on a CPU give --bf16, or leave it out" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "save").exists()
    with pytest.raises(InputError, match=r"--memory-efficient-fp16 trains on GPUs .* give --memory-efficient-bf16"):
        choose_precision(training_configuration(documents, tmp_path, *SETTINGS, "--memory-efficient-fp16"), "train")
