"""A stream's words are those of whole segments; saved and loaded, it continues as if nothing had happened."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_model import TYPES, build, build_memformer, run, same_text

from fairseq_infformer.errors import InputError
from fairseq_infformer.models.text_stream import Stream

SEGMENT = 5
MODELS = [
    (build, {}),
    (build, {"ltm_sampling": "sticky", "position_encoding": "rope"}),
    (build, {"long_term_memory": "none"}),
    (build, {"long_term_memory": "compressive", "compressive_length": 4, "compressive_rate": 2}),
    (build, {"long_term_memory": "heavy-hitters", "hitters_length": 6}),
    (build, {"long_term_memory": "slots", "slots_count": 3}),
    (build, {"pointer_length": 6}),
    (build_memformer, {}),
]


def text(rows, length, seed=0):
    return torch.randint(4, TYPES, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_log_probs_are_those_of_the_text_after_its_start():
    """Of rows of 0, 1 and 23 tokens, that come in two calls."""
    model, tokens = build(), text(3, 23)
    stream = Stream(model, SEGMENT, rows=3)
    stream.read(tokens[:, :9], torch.tensor([0, 1, 9]))
    stream.read(tokens[:, 9:], torch.tensor([0, 0, 14]))
    start = torch.full((1, 1), model.decoder.dictionary.eos())
    for row, length in enumerate([0, 1, 23]):
        logits = run(model, torch.cat([start, tokens[row : row + 1, :length]], dim=1), SEGMENT)
        same_text(stream.log_probs()[row], logits[0, -1].log_softmax(-1))
    assert stream.tokens_read.tolist() == [0, 1, 23]


@pytest.mark.parametrize(("make", "settings"), MODELS)
def test_load_continues_what_save_wrote(make, settings, tmp_path):
    model, later = make(**settings), text(2, 13, seed=1)
    stream = Stream(model, SEGMENT, rows=2)
    stream.read(text(2, 31), torch.tensor([31, 18]))
    stream.save(tmp_path / "book.memory")
    loaded = Stream.load(tmp_path / "book.memory", model, SEGMENT)
    assert loaded.tokens_read.tolist() == [31, 18]
    for each in (stream, loaded):
        each.read(later)
    assert loaded.log_probs().equal(stream.log_probs())


def test_reorder_lets_rows_continue_from_others():
    model, tokens, later = build(), text(2, 17), text(3, 6, seed=1)
    stream = Stream(model, SEGMENT, rows=2)
    stream.read(tokens, torch.tensor([12, 17]))
    stream.reorder(torch.tensor([1, 0, 1]))
    stream.read(later)
    for row, (source, length) in enumerate([(1, 17), (0, 12), (1, 17)]):
        alone = Stream(model, SEGMENT)
        alone.read(torch.cat([tokens[source, :length], later[row]])[None])
        same_text(stream.log_probs()[row], alone.log_probs()[0])


def test_save_writes_a_file_that_does_not_grow_with_the_text(tmp_path):
    model, sizes = build(), []
    stream = Stream(model, SEGMENT)
    for _ in range(2):
        stream.read(text(1, 20 * SEGMENT))
        stream.save(tmp_path / "book.memory")
        sizes.append((tmp_path / "book.memory").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 8  # the metadata's numbers may have another digit, and are padded to 8 bytes
    with safe_open(tmp_path / "book.memory", "pt") as opened:
        assert json.loads(opened.metadata()["tokens_read"]) == [40 * SEGMENT]


def test_load_refuses_other_models_segments_and_files(tmp_path):
    model, file = build(), tmp_path / "book.memory"
    stream = Stream(model, SEGMENT)
    stream.read(text(1, 12))
    stream.save(file)
    for other in (build(1), build(decoder_layers=1), build(long_term_memory="none"), build(prefix="v")):
        with pytest.raises(InputError, match="is of another model; read the text again with this one"):
            Stream.load(file, other, SEGMENT)
    with pytest.raises(InputError, match="was read in segments of 5 tokens, not of 6"):
        Stream.load(file, model, 6)
    with pytest.raises(InputError, match=r"none.memory cannot be read \(.*\); save it with Stream.save"):
        Stream.load(tmp_path / "none.memory", model, SEGMENT)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    save_file(tensors, file, metadata | {"format": "99"})
    with pytest.raises(InputError, match="has format 99, but this version reads 1"):
        Stream.load(file, model, SEGMENT)
    window = "layers.0.window.hidden"
    for changed in ({window: tensors[window][:, 1:].contiguous()}, {"last": None}):
        kept = {name: tensor for name, tensor in (tensors | changed).items() if tensor is not None}
        save_file(kept, file, metadata)
        with pytest.raises(InputError, match=r"is damaged \(.*\); read the text again"):
            Stream.load(file, model, SEGMENT)
    file.write_bytes(b"no memory")
    with pytest.raises(InputError, match="cannot be read"):
        Stream.load(file, model, SEGMENT)


def test_read_refuses_other_rows_and_segments_longer_than_the_positions():
    with pytest.raises(InputError, match="tokens must have 1 rows, as the stream has, got 2"):
        Stream(build(), SEGMENT).read(text(2, 3))
    for lengths in ([4], [-1], [1, 1]):
        with pytest.raises(InputError, match=r"lengths must be 1 numbers, one for each row, in 0\.\.3, got"):
            Stream(build(), SEGMENT).read(text(1, 3), torch.tensor(lengths))
    model = build(position_encoding="learned", stm_length=0, max_target_positions=7)
    for segment in (0, 8):
        with pytest.raises(InputError, match=rf"segment must lie in 1\.\.7, as many .*, got {segment}"):
            Stream(model, segment)
