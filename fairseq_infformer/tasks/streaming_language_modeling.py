"""Language modelling over streams: text in its own order, so that a memory can span it."""

import filecmp
import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
import torch.distributed as dist
from fairseq.criterions import FairseqCriterion
from fairseq.data import ConcatDataset, Dictionary, iterators
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import FairseqLanguageModel
from fairseq.optim import AMPOptimizer, FairseqOptimizer
from fairseq.tasks import FairseqTask, register_task
from fairseq.utils import split_paths
from omegaconf import II, MISSING
from torch import Tensor

from fairseq_infformer.data.binarised import (
    data_folders,
    load_dictionary,
    load_document_starts,
    load_lines,
    read_stats,
)
from fairseq_infformer.data.joined_segments import JoinedSegments
from fairseq_infformer.data.stream_iterator import Memory, Saved, StreamIterator, gather_rows
from fairseq_infformer.data.streaming_dataset import StreamingDataset, TokenStream
from fairseq_infformer.errors import InputError
from fairseq_infformer.protocols import LoadsPretrained, Remembers

logger = logging.getLogger(__name__)

# The words around what --score answers scores.
ANSWER, END_OF_ANSWER = "<answer>", "</answer>"


@dataclass
class StreamingLanguageModelingConfig(FairseqDataclass):
    data: str = field(
        default=MISSING,
        metadata={"help": "directory made by prepare.sh or fairseq-preprocess; several, joined by ':', take turns"},
    )
    tokens_per_sample: int = field(default=512, metadata={"help": "tokens of each stream in one segment"})
    document_boundaries: ChoiceEnum(["ignore", "reset"]) = field(
        default="ignore",
        metadata={"help": "reset: attention and memories end where a document ends; ignore: the text is one stream"},
    )
    score: ChoiceEnum(["all", "answers"]) = field(
        default="all",
        metadata={"help": f"which tokens are targets: all, or those between {ANSWER} and {END_OF_ANSWER}"},
    )
    bptt_segments: int = field(
        default=1,
        metadata={
            "help": "K, consecutive segments of each stream in one training sample: the loss of later ones "
            "reaches what earlier ones wrote to the memories"
        },
    )
    bptt_replay: bool = field(
        default=False,
        metadata={
            "help": "keep the activations of one segment at a time and run each again in the backward pass (memory "
            "replay back-propagation): the same gradients in less memory, a third slower"
        },
    )
    batch_size_valid: Optional[int] = II("dataset.batch_size_valid")


@register_task("streaming_language_modeling", dataclass=StreamingLanguageModelingConfig)
class StreamingLanguageModelingTask(FairseqTask):
    """Reads a corpus as ``--batch-size`` × ranks streams of consecutive segments, the same for every model.

    Every token is a target exactly once an epoch, in training and in evaluation. Batches come in order; the sample
    says which rows start with an empty memory.
    """

    cfg: StreamingLanguageModelingConfig

    def __init__(self, cfg: StreamingLanguageModelingConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.model: Optional[FairseqLanguageModel] = None
        self._collected: Optional[Memory] = None
        self._train_subset: Optional[str] = None
        self._unseen = {Path(path) for path in split_paths(cfg.data)}  # training data of later epochs

    @classmethod
    def setup_task(cls, cfg: StreamingLanguageModelingConfig, **kwargs: Any) -> "StreamingLanguageModelingTask":
        """Load the dictionary and check the settings; InputError names what is wrong with them."""
        if cfg.tokens_per_sample <= 0:
            raise InputError(
                f"--tokens-per-sample must be positive, got {cfg.tokens_per_sample} (fairseq-eval-lm subtracts "
                "--context-window from it, which a memory does not need: leave it out)"
            )
        if cfg.bptt_segments <= 0:
            raise InputError(f"--bptt-segments must be positive, got {cfg.bptt_segments}")
        if cfg.bptt_replay and cfg.bptt_segments == 1:
            raise InputError("--bptt-replay needs --bptt-segments 2 or more, got 1")
        paths = [folder / "dict.txt" for folder in data_folders(cfg.data)]
        for path in paths:
            if not filecmp.cmp(paths[0], path, shallow=False):
                raise InputError(f"{path} differs from {paths[0]}: data joined by ':' needs one dictionary")
            check_dictionary(path)
        dictionary = load_dictionary(paths[0])
        logger.info(f"dictionary: {len(dictionary)} types")
        return cls(cfg, dictionary)

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> FairseqLanguageModel:
        """Build the model that ``cfg`` names; its memory goes into checkpoints and comes back from them.

        Unless its weights come from a checkpoint, it may start from others that have been trained.
        """
        self.model = super().build_model(cfg, from_checkpoint)
        if not from_checkpoint and isinstance(self.model, LoadsPretrained):
            self.model.load_pretrained()
        return self.model

    def collect_memory(self, group: Any, device: torch.device) -> None:
        """Gather the memory of the ranks of ``group`` for a checkpoint that its first rank is about to write."""
        if isinstance(self.model, Remembers):
            self._collected = gather_rows(self.model.memory_state(), group, device)

    def _hand_over_memory(self) -> Optional[Saved]:
        collected, self._collected = self._collected, None
        return Saved(collected, self.model.memory_format) if collected is not None else None

    def _restore_memory(self, saved: Saved) -> None:
        if isinstance(self.model, Remembers):
            self.model.load_memory_state(saved.memory, saved.format)

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Load a split; with ``combine``, split, split1, split2, … as one."""
        paths = split_paths(self.cfg.data)
        directory = Path(paths[(epoch - 1) % len(paths)])
        self.datasets[split] = dataset = self._read(split, directory, combine)
        if "data_selector" in kwargs:  # which fairseq gives for the training data alone
            self._train_subset = split
            self._unseen.discard(directory)
        targets = "each a target once" if dataset.answers is None else f"{len(dataset.answers):,} answers are targets"
        logger.info(f"{split}: {len(dataset.tokens):,} tokens, {targets}, in {dataset.num_segments:,} segments")

    def _read(self, split: str, directory: Path, combine: bool) -> StreamingDataset:
        lines, documents, num_tokens = [], [], 0
        for name in names_of(split, directory) if combine else [split]:
            part = load_lines(directory / name, self.dictionary) if name else None
            if part is None:
                raise InputError(
                    f"there is no split {name!r} in {directory}; it has {', '.join(splits_in(directory)) or 'none'}"
                )
            check_count(directory, name, int(part.sizes.sum()))
            lines.append(part)
            documents.append(num_tokens + self._documents(directory / f"{name}.documents.npy", int(part.sizes.sum())))
            num_tokens += int(part.sizes.sum())
        if not num_tokens:
            raise InputError(f"split {split!r} in {directory} is empty")
        joined = lines[0] if len(lines) == 1 else ConcatDataset(lines)
        tokens = TokenStream(joined, np.concatenate([part.sizes for part in lines]))
        answers = None if self.cfg.score == "all" else self._answers(tokens, directory / split)
        return StreamingDataset(
            tokens,
            np.concatenate(documents),
            self.cfg.tokens_per_sample,
            self.dictionary.eos(),
            self.dictionary.pad(),
            len(self.dictionary),
            answers=answers,
        )

    def _answers(self, tokens: TokenStream, path: Path) -> np.ndarray:
        """Offsets (A, 2) at which the answers of a split start and stop."""
        if ANSWER not in self.dictionary or END_OF_ANSWER not in self.dictionary:
            raise InputError(f"--score answers needs the words {ANSWER} and {END_OF_ANSWER}, which dict.txt lacks")
        starts = tokens.find(self.dictionary.index(ANSWER)) + 1
        stops = tokens.find(self.dictionary.index(END_OF_ANSWER))
        paired = len(starts) > 0 and len(starts) == len(stops)
        if not (paired and (starts < stops).all() and (stops[:-1] < starts[1:]).all()):
            raise InputError(
                f"{path} holds {len(starts)} {ANSWER} and {len(stops)} {END_OF_ANSWER}: they must take turns, with "
                "words between them"
            )
        return np.stack([starts, stops], axis=1)

    def _documents(self, path: Path, num_tokens: int) -> np.ndarray:
        if self.cfg.document_boundaries == "ignore":
            return np.zeros(1, dtype=np.int64)
        return load_document_starts(path, num_tokens)

    def get_batch_iterator(
        self,
        dataset: StreamingDataset,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        seed: int = 1,
        **unused: Any,
    ) -> StreamIterator:
        """Batches in the order of the text: ``max_sentences`` streams for each of ``num_shards`` ranks.

        Nothing is shuffled, filtered or dropped, so fairseq's options for that are of no effect.
        """
        if max_sentences is None:
            raise InputError("give --batch-size, the number of streams that each process reads, not --max-tokens")
        if dataset is self.datasets.get(self._train_subset):  # rather now than after the first epoch
            for other in self.datasets.values():
                if other is not dataset and self.cfg.batch_size_valid:
                    self._in_streams(other, self.cfg.batch_size_valid * num_shards)
            while self._unseen:
                directory = self._unseen.pop()
                later = self._read(self._train_subset, directory, combine=True)
                self._in_streams(later, max_sentences * num_shards, f"{directory}: ", training=True)
        training = dataset is self.datasets.get(self._train_subset)
        streams = self._in_streams(dataset, max_sentences * num_shards, training=training)
        return StreamIterator(
            *(streams, num_shards, shard_id, self._hand_over_memory, self._restore_memory),
            seed=seed,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
        )

    def _in_streams(
        self, dataset: StreamingDataset, num_streams: int, name: str = "", training: bool = False
    ) -> StreamingDataset | JoinedSegments:
        try:
            streams = dataset.in_streams(num_streams)
            if training and self.cfg.bptt_segments > 1:
                return JoinedSegments(streams, self.cfg.bptt_segments, self.cfg.bptt_replay)
            return streams
        except ValueError as error:
            raise InputError(f"{name}{error}") from error

    def train_step(
        self,
        sample: dict[str, Any],
        model: FairseqLanguageModel,
        criterion: FairseqCriterion,
        optimizer: FairseqOptimizer,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Forward and backward; where no stream has a target, forward alone, to remember what was read."""
        # Several processes add up their gradients in the backward pass, so none of them may leave it out.
        if sample["scored"] or dist.is_initialized():
            return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        model.train()
        model.set_num_updates(update_num)
        with torch.no_grad(), torch.autocast("cuda", enabled=isinstance(optimizer, AMPOptimizer)):
            return criterion(model, sample)

    def eval_lm_dataloader(
        self,
        dataset: StreamingDataset,
        batch_size: Optional[int] = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        data_buffer_size: int = 0,
        context_window: int = 0,
        **unused: Any,
    ) -> iterators.CountingIterator:
        """What ``fairseq-eval-lm`` scores: the whole split, in ``batch_size`` streams (default 1)."""
        if context_window > 0:
            raise InputError(
                f"--context-window {context_window} does not apply: memory carries the context from segment to "
                "segment; leave it out"
            )
        if num_shards > 1 or shard_id > 0:
            raise InputError(
                f"fairseq-eval-lm would print the result of shard {shard_id} of {num_shards} alone: leave out "
                "--num-shards and --shard-id; infformer-eval adds up the results of several processes"
            )
        if len(paths := split_paths(self.cfg.data)) > 1:
            raise InputError(f"fairseq-eval-lm would score {paths[0]} of {self.cfg.data} alone; give one folder")
        if self.cfg.score != "all":
            raise InputError(
                "fairseq-eval-lm takes the first places of a row for its targets, which answers are not: "
                "score them with infformer-eval"
            )
        return self.get_batch_iterator(
            dataset, max_sentences=batch_size or 1, num_workers=num_workers, data_buffer_size=data_buffer_size
        ).next_epoch_itr(shuffle=False)

    def build_dataset_for_inference(self, *args: Any, **kwargs: Any) -> None:
        raise InputError("this version cannot generate text, only train on it and score it")

    def max_positions(self) -> None:
        return None

    @property
    def source_dictionary(self) -> Dictionary:
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        return self.dictionary


def names_of(split: str, directory: Path) -> list[str]:
    """The parts of a split that fairseq reads as one: split, split1, split2, …"""
    parts = [split]
    while (directory / f"{split}{len(parts)}.idx").exists():
        parts.append(f"{split}{len(parts)}")
    return parts


def splits_in(directory: Path) -> list[str]:
    """Names of the binarised splits in a directory."""
    return sorted(path.stem for path in directory.glob("*.idx"))


def check_dictionary(path: Path) -> None:
    """Compare dict.txt with what prepare.sh has noted beside it; InputError if the data was made with another."""
    noted = read_stats(path.parent)["dictionary"].get("sha256")
    if noted and noted != hashlib.sha256(path.read_bytes()).hexdigest():
        raise InputError(f"{path} is not the dictionary that the data beside it was made with; prepare it again")


def check_count(directory: Path, split: str, num_tokens: int) -> None:
    """Compare a split with what prepare.sh has noted beside it; InputError if it has another number of tokens."""
    noted = read_stats(directory)["splits"].get(split, {}).get("tokens", num_tokens)
    if noted != num_tokens:
        raise InputError(
            f"{directory / 'stats.json'} counts {noted} tokens of {split}, the data holds {num_tokens}: prepare again"
        )
