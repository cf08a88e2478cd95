"""Every token is a target exactly once, in order, and no row sees another document than its own."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import ConcatDataset, Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder, make_builder

from fairseq_infformer.data.binarised import load_lines
from fairseq_infformer.data.streaming_dataset import StreamingDataset, TokenStream
from fairseq_infformer.errors import InputError
from fairseq_infformer.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

EOS, PAD = 2, 1


def corpus(num_tokens: int = 103) -> tuple[TokenStream, torch.Tensor]:
    tokens = torch.arange(10, 10 + num_tokens)
    sizes = np.array([1, 2, 30, 1, num_tokens - 34])
    return TokenStream(tokens.split(sizes.tolist()), sizes), tokens


def dataset(tokens_per_sample: int, num_streams: int, documents: list[int]) -> tuple[StreamingDataset, torch.Tensor]:
    stream, tokens = corpus()
    return StreamingDataset(stream, np.array(documents), tokens_per_sample, EOS, PAD, num_streams=num_streams), tokens


def batches(data: StreamingDataset, num_shards: int = 1, shard: int = 0) -> list[dict]:
    return [data.collater([data[i] for i in batch]) for batch in data.batches(num_shards)[shard::num_shards]]


DOCUMENTS = [[0], [0, 1, 40, 41, 60]]


@pytest.mark.parametrize("documents", DOCUMENTS)
@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize(("rows", "tokens_per_sample"), [(1, 1), (1, 7), (3, 4), (2, 100), (2, 13), (5, 3)])
def test_batches_have_every_token_as_a_target_once(documents, num_shards, rows, tokens_per_sample):
    if rows * num_shards > 4 and tokens_per_sample > 20:
        pytest.skip("more streams than segments")
    if rows * num_shards > -(-103 // tokens_per_sample) and len(documents) == 1:
        rows = num_shards = 1
    data, tokens = dataset(tokens_per_sample, rows * num_shards, documents)
    targets = [b["target"][b["target"] != PAD] for r in range(num_shards) for b in batches(data, num_shards, r)]
    assert torch.cat(targets).sort().values.equal(tokens)


def test_batches_have_every_token_as_a_target_once_for_any_corpus_and_streams():
    """Through fairseq's own iterators, for random lines (empty ones too), documents, segments, rows and ranks."""
    rng, tried = np.random.default_rng(0), 0
    task = StreamingLanguageModelingTask(StreamingLanguageModelingConfig(data=""), Dictionary())
    while tried < 200:
        sizes = rng.integers(0, rng.integers(2, 40), size=rng.integers(1, 12))
        total, shards = int(sizes.sum()), int(rng.integers(1, 4))
        tokens = torch.arange(10, 10 + total)
        starts = np.unique(np.append(0, rng.integers(0, max(1, total), size=rng.integers(0, 6))))
        lines = TokenStream(tokens.split(sizes.tolist()), sizes)
        if not total:
            continue
        data = StreamingDataset(lines, starts, int(rng.integers(1, 50)), EOS, PAD)
        rows = int(rng.integers(1, 8))
        if rows * shards > data.num_segments:
            continue
        streams: dict[tuple[int, int], list[int]] = {}
        for shard in range(shards):
            batches = task.get_batch_iterator(data, max_sentences=rows, num_shards=shards, shard_id=shard)
            for batch in batches.next_epoch_itr(shuffle=False):
                assert batch["ntokens"] == int((batch["target"] != PAD).sum())
                for row, target in enumerate(batch["target"]):
                    streams.setdefault((shard, row), []).extend(target[target != PAD].tolist())
        assert [token for place in sorted(streams) for token in streams[place]] == tokens.tolist()
        tried += 1


@pytest.mark.parametrize("documents", DOCUMENTS)
def test_batches_give_each_row_consecutive_text(documents):
    data, _tokens = dataset(4, 3, documents)
    for row in range(3):
        seen, expected_input = [], EOS
        for number, batch in enumerate(batches(data)):
            net_input = batch["net_input"]
            length = net_input["lengths"][row]
            assert net_input["segment"] == number
            source, target = net_input["src_tokens"][row], batch["target"][row]
            assert (source[length:] == PAD).all() and (target[length:] == PAD).all()
            if not length:
                continue
            assert source[1:length].equal(target[: length - 1])
            opens = int(target[0]) - 10 in documents
            assert net_input["reset"][row] == (opens or number == 0)
            if opens:
                assert source[0] == EOS
            elif number:
                assert source[0] == expected_input
            expected_input = target[length - 1]
            seen.append(target[:length])
        seen = torch.cat(seen)
        assert seen.equal(torch.arange(int(seen[0]), int(seen[0]) + len(seen)))


def test_segments_end_at_document_boundaries():
    data, _ = dataset(16, 2, [0, 40])
    for batch in batches(data):
        for row, length in enumerate(batch["net_input"]["lengths"]):
            target = batch["target"][row, :length] - 10
            assert (target < 40).all() or (target >= 40).all()


def test_batches_of_two_ranks_are_those_of_one_with_twice_the_rows():
    data, _ = dataset(4, 6, [0])
    together = batches(data)
    apart = zip(batches(data, 2, 0), batches(data, 2, 1))
    for whole, (first, second) in zip(together, apart, strict=True):
        assert whole["target"].equal(torch.cat([first["target"], second["target"]]))


def test_dataset_refuses_more_streams_than_segments():
    with pytest.raises(ValueError, match=r"27 streams .* more than the 26 segments of 4 tokens"):
        dataset(4, 27, [0])


@pytest.mark.parametrize("tokens_per_sample", [1, 4, 7, 200])
def test_answers_are_the_only_targets(tokens_per_sample):
    stream, tokens = corpus()
    answers = np.array([[0, 1], [5, 9], [39, 41], [102, 103]])
    wanted = torch.cat([tokens[start:stop] for start, stop in answers])
    documents = np.array([0, 40])
    data = StreamingDataset(stream, documents, tokens_per_sample, EOS, PAD, num_streams=2, answers=answers)
    whole = StreamingDataset(stream, documents, tokens_per_sample, EOS, PAD, num_streams=2)
    seen = []
    for batch, everything in zip(batches(data), batches(whole)):
        scored = batch["target"] != PAD
        assert batch["ntokens"] == scored.sum()
        assert batch["scored"] == bool(scored.any())
        assert batch["net_input"]["src_tokens"].equal(everything["net_input"]["src_tokens"])
        assert (batch["net_input"]["lengths"] == everything["net_input"]["lengths"]).all()
        seen.append(batch["target"][scored])
        for row, start in enumerate(batch["start"]):
            places = scored[row].nonzero().flatten()
            assert batch["target"][row, places].equal(tokens[start + places])
    assert torch.cat(seen).sort().values.equal(wanted)


def test_answers_are_known_to_all_ranks():
    stream, _ = corpus()
    answers = np.array([[30, 31], [80, 83]])
    data = StreamingDataset(stream, np.array([0]), 4, EOS, PAD, num_streams=4, answers=answers)
    scored = [[batch["scored"] for batch in batches(data, 2, shard)] for shard in range(2)]
    assert scored[0] == scored[1]
    assert 0 < sum(scored[0]) < len(scored[0])


@pytest.mark.parametrize("sizes", [[200], [60, 1, 139], [1] * 200], ids=["one line", "three", "a token each"])
@pytest.mark.parametrize("joined", [False, True])
def test_read_copies_only_a_part_of_a_long_line(sizes, joined, tmp_path, monkeypatch):
    tokens = torch.randint(4, 60_000, (sum(sizes),), generator=torch.Generator().manual_seed(0))
    builder = MMapIndexedDatasetBuilder(f"{tmp_path}/split.bin", dtype=np.uint16)
    for line in tokens.split(sizes):
        builder.add_item(line)
    builder.finalize(f"{tmp_path}/split.idx")
    lines = MMapIndexedDataset(f"{tmp_path}/split")
    monkeypatch.setattr(MMapIndexedDataset, "__getitem__", None)
    if joined:
        lines, tokens, sizes = ConcatDataset([lines, lines]), torch.cat([tokens, tokens]), 2 * sizes
    stream = TokenStream(lines, np.array(sizes))
    for start, stop in ((0, 1), (0, 200), (59, 62), (61, 120), (150, len(tokens))):
        read = stream.read(start, stop)
        assert read.dtype == torch.int64 and read.equal(tokens[start:stop])


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_find_returns_every_position_of_a_token(block):
    lines = [torch.tensor(line) for line in ([7], [3, 7, 7], [1], [7, 2])]
    assert TokenStream(lines, np.array([1, 3, 1, 2])).find(7, block).tolist() == [0, 2, 3, 5]


# ---- files of fairseq-preprocess ------------------------------------------------------------------------------------


def binarised(folder: Path, dataset_impl: str, lines: list[list[int]]) -> tuple[Path, Dictionary]:
    """A split as ``fairseq-preprocess --dataset-impl`` writes it, and a dictionary that knows its tokens."""
    dictionary = Dictionary()
    for number in range(60):
        dictionary.add_symbol(f"w{number}")
    builder = make_builder(f"{folder}/train.bin", dataset_impl, vocab_size=len(dictionary))
    for line in lines:
        builder.add_item(torch.IntTensor(line))
    builder.finalize(f"{folder}/train.idx")
    return folder / "train", dictionary


@pytest.mark.parametrize("dataset_impl", ["mmap", "lazy", "cached"])
def test_load_lines_reads_every_format(dataset_impl, tmp_path):
    written = [[5, 9, 2], [2], [63, 0, 3, 2]]
    lines = load_lines(*binarised(tmp_path, dataset_impl, written))
    assert [line.tolist() for line in lines] == written
    assert TokenStream(pickle.loads(pickle.dumps(lines)), lines.sizes).read(2, 7).tolist() == [2, 2, 63, 0, 3]


@pytest.mark.parametrize("dataset_impl", ["mmap", "lazy"])
def test_load_lines_refuses_pads_and_truncated_files(dataset_impl, tmp_path):
    """No loss counts a pad, so that its token would be no target."""
    prefix, dictionary = binarised(tmp_path, dataset_impl, [[5, 9, 2], [5, 1, 2]])
    with pytest.raises(InputError, match=r"train.bin contains the word <pad>, which fairseq reserves; replace it"):
        load_lines(prefix, dictionary)
    data = prefix.with_suffix(".bin")
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(
        InputError, match=r"train.bin has \d+ bytes, but train.idx implies \d+: one of them is truncated"
    ):
        load_lines(prefix, dictionary)
