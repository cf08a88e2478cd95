"""Language modelling over streams: text in its original order, so that a memory can span it."""

import filecmp
import logging
from collections.abc import Callable
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
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import FairseqTask, register_task
from fairseq.utils import split_paths
from omegaconf import II, MISSING
from torch import Tensor

from fairseq_infformer.data.answers import ANSWER, END_OF_ANSWER, find_answers
from fairseq_infformer.data.binarised import load_document_starts, load_lines
from fairseq_infformer.data.data_folder import (
    check_noted_dictionary,
    check_noted_tokens,
    data_folders,
    parts_of_split,
    splits_in,
)
from fairseq_infformer.data.joined_segments import JoinedSegments
from fairseq_infformer.data.prompts import Prompts, starts_of_documents
from fairseq_infformer.data.spelling import Spelling, Symbols, WordSpelling, spelling_of
from fairseq_infformer.data.stream_iterator import Memory, Saved, StreamIterator, gather_rows
from fairseq_infformer.data.streaming_dataset import StreamingDataset, Streams, TokenStream
from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.protocols import ContinuesPrompts, LoadsPretrained, Remembers
from fairseq_infformer.vocabulary_files import DICTIONARY, load_dictionary

logger = logging.getLogger(__name__)


@dataclass
class StreamingLanguageModelingConfig(FairseqDataclass):
    data: str = field(
        default=MISSING,
        metadata={
            "help": "data folder made by prepare.sh or fairseq-preprocess; of several, joined by ':', each epoch "
            "reads the next"
        },
    )
    tokens_per_sample: int = field(default=512, metadata={"help": "tokens per segment of each stream"})
    document_boundaries: ChoiceEnum(["ignore", "reset"]) = field(
        default="ignore",
        metadata={"help": "reset: memories start empty in every document; ignore: the text is one stream"},
    )
    score: ChoiceEnum(["all", "answers"]) = field(
        default="all",
        metadata={"help": f"which tokens are targets: all, or answers, those between {ANSWER} and {END_OF_ANSWER}"},
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
            "replay back-propagation): the same gradients in less memory, in up to a third more time"
        },
    )
    batch_size_valid: Optional[int] = II("dataset.batch_size_valid")
    prefix_size: int = II("generation.prefix_size")
    max_len_b: int = II("generation.max_len_b")


@register_task("streaming_language_modeling", dataclass=StreamingLanguageModelingConfig)
class StreamingLanguageModelingTask(FairseqTask):
    """Reads a corpus as ``--batch-size`` × ranks streams of consecutive segments, the same for every model.

    Every token is a target exactly once per epoch, in training and in evaluation. Batches come in the order of the
    text, and a sample says which of its rows start with an empty memory.
    """

    cfg: StreamingLanguageModelingConfig

    def __init__(self, cfg: StreamingLanguageModelingConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.model: Optional[FairseqLanguageModel] = None
        self._collected: Optional[Memory] = None
        self._train_subset: Optional[str] = None
        self._unseen = {Path(path) for path in split_paths(cfg.data)}  # training data of later epochs
        # Above 0 in fairseq-generate alone; a configuration made in Python has the name of the setting instead.
        self._prefix_size = cfg.prefix_size if isinstance(cfg.prefix_size, int) else 0

    @classmethod
    def setup_task(cls, cfg: StreamingLanguageModelingConfig, **kwargs: Any) -> "StreamingLanguageModelingTask":
        """Load the dictionary and check the settings; InputError names a wrong one."""
        if cfg.tokens_per_sample <= 0:
            raise InputError(
                f"--tokens-per-sample must be 1 or more, got {cfg.tokens_per_sample} (fairseq-eval-lm subtracts "
                "--context-window, which a memory does not need; leave it out)"
            )
        if cfg.bptt_segments <= 0:
            raise InputError(f"--bptt-segments must be 1 or more, got {cfg.bptt_segments}")
        if cfg.bptt_replay and cfg.bptt_segments == 1:
            raise InputError("--bptt-replay needs --bptt-segments 2 or more, got 1")
        folders = data_folders(cfg.data)
        first = folders[0] / DICTIONARY
        for folder in folders:
            if not filecmp.cmp(first, folder / DICTIONARY, shallow=False):
                raise InputError(
                    f"{folder / DICTIONARY} differs from {first}, but data joined by ':' needs one dictionary; prepare "
                    f"it again with --dict {first}"
                )
            check_noted_dictionary(folder)
        dictionary = load_dictionary(first)
        logger.info(f"dictionary: {len(dictionary)} types")
        return cls(cfg, dictionary)

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> FairseqLanguageModel:
        """Build the model that ``cfg`` names, whose memory the task's checkpoints keep.

        Unless its weights come from a checkpoint, it may start from pretrained ones.
        """
        self.model = super().build_model(cfg, from_checkpoint)
        if not from_checkpoint and isinstance(self.model, LoadsPretrained):
            self.model.load_pretrained(cfg)
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
        if self._prefix_size:
            self.datasets[split] = self._prompts(split, directory)
            return
        self.datasets[split] = dataset = self._read(split, directory, combine)
        if "data_selector" in kwargs:  # which fairseq gives for the training data alone
            self._train_subset = split
            self._unseen.discard(directory)
        targets = "each a target once" if dataset.answers is None else f"{len(dataset.answers):,} answers are targets"
        logger.info(f"{split}: {len(dataset.tokens):,} tokens, {targets}, in {dataset.num_segments:,} segments")

    def _prompts(self, split: str, directory: Path) -> Prompts:
        tokens, documents = self._tokens(split, directory, combine=False)
        prompts = starts_of_documents(
            tokens,
            documents,
            self._prefix_size,
            self.cfg.max_len_b,
            self.cfg.tokens_per_sample,
            end=self.dictionary.eos(),
            pad=self.dictionary.pad(),
        )
        if not len(prompts):
            raise InputError(
                f"--prefix-size {self._prefix_size} leaves nothing of the documents of split {split!r} in {directory} "
                "to be continued; give less"
            )
        logger.info(f"{split}: {len(prompts):,} of {len(documents):,} documents have more than the prefix")
        return prompts

    def _read(self, split: str, directory: Path, combine: bool) -> StreamingDataset:
        tokens, documents = self._tokens(split, directory, combine)
        answers = None if self.cfg.score == "all" else find_answers(tokens, self.dictionary, directory / split)
        return StreamingDataset(
            tokens,
            documents,
            self.cfg.tokens_per_sample,
            self.dictionary.eos(),
            self.dictionary.pad(),
            answers=answers,
        )

    def _tokens(self, split: str, directory: Path, combine: bool) -> tuple[TokenStream, np.ndarray]:
        """The tokens of a split, and the offsets of those that start a document."""
        lines, documents, num_tokens = [], [], 0
        for name in parts_of_split(split, directory) if combine else [split]:
            part = load_lines(directory / name, self.dictionary) if name else None
            if part is None:
                known = ", ".join(splits_in(directory))
                advice = f"choose one of {known}" if known else "prepare the data again"
                raise InputError(f"{directory} has no split {name!r}; {advice}")
            check_noted_tokens(directory, name, int(part.sizes.sum()))
            lines.append(part)
            documents.append(num_tokens + self._documents(directory / f"{name}.documents.npy", int(part.sizes.sum())))
            num_tokens += int(part.sizes.sum())
        if not num_tokens:
            raise InputError(f"split {split!r} in {directory} is empty; prepare the data again")
        joined = lines[0] if len(lines) == 1 else ConcatDataset(lines)
        return TokenStream(joined, np.concatenate([part.sizes for part in lines])), np.concatenate(documents)

    def _documents(self, path: Path, num_tokens: int) -> np.ndarray:
        if self.cfg.document_boundaries == "ignore":
            return np.zeros(1, dtype=np.int64)
        return load_document_starts(path, num_tokens)

    def get_batch_iterator(
        self,
        dataset: StreamingDataset | Prompts,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        seed: int = 1,
        **unused: Any,
    ) -> StreamIterator | iterators.EpochBatchIterator:
        """Batches in the order of the text: ``max_sentences`` streams per rank, for ``num_shards`` ranks.

        Nothing is shuffled, filtered or dropped, so fairseq's options for that have no effect. Prompts come in batches
        of at most ``max_sentences``, and of ``max_tokens`` in a segment.
        """
        if isinstance(dataset, Prompts):
            return super().get_batch_iterator(
                dataset,
                max_tokens,
                max_sentences,
                num_shards=num_shards,
                shard_id=shard_id,
                num_workers=num_workers,
                data_buffer_size=data_buffer_size,
                seed=seed,
            )
        if max_sentences is None:
            raise InputError(
                "--batch-size is missing; give it, the number of streams per process, instead of --max-tokens"
            )
        if dataset is self.datasets.get(self._train_subset):  # check all data now rather than after the first epoch
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
            streams,
            num_shards,
            shard_id,
            collect=self._hand_over_memory,
            restore=self._restore_memory,
            seed=seed,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
        )

    def _in_streams(
        self, dataset: StreamingDataset, num_streams: int, name: str = "", training: bool = False
    ) -> Streams:
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
        """Forward and backward pass; if no stream has a target, only the forward pass, which updates the memory."""
        # Several processes sum their gradients in the backward pass, so none of them may skip it.
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
        """The batches that ``fairseq-eval-lm`` scores: the whole split, in ``batch_size`` streams (default 1)."""
        if context_window > 0:
            raise InputError(
                f"--context-window {context_window} does not apply, because the memory carries the context from "
                "segment to segment; leave it out"
            )
        if num_shards > 1 or shard_id > 0:
            raise InputError(
                f"fairseq-eval-lm would print the result of shard {shard_id} of {num_shards} only; leave out "
                "--num-shards and --shard-id, or run infformer-eval, which adds up the results of several processes"
            )
        if len(paths := split_paths(self.cfg.data)) > 1:
            raise InputError(f"fairseq-eval-lm would score only {paths[0]} of {self.cfg.data}; give one folder")
        if self.cfg.score != "all":
            raise InputError(
                f"fairseq-eval-lm cannot score only a part of the tokens, as --score {self.cfg.score} asks; run "
                "infformer-eval, which can"
            )
        return self.get_batch_iterator(
            dataset, max_sentences=batch_size or 1, num_workers=num_workers, data_buffer_size=data_buffer_size
        ).next_epoch_itr(shuffle=False)

    def build_generator(
        self, models: list[FairseqLanguageModel], args: Any, *more: Any, **options: Any
    ) -> SequenceGenerator:
        """fairseq's generator for models that continue prompts; InputError names options that do not go together."""
        for model in models:
            if not isinstance(model, ContinuesPrompts):
                raise InputError(
                    f"a {type(model).__name__} does not read streams; give the --task that it was trained with"
                )
        prompted = [model.prompted(self.cfg.tokens_per_sample) for model in models]
        try:
            return super().build_generator(prompted, args, *more, **options)
        except (AssertionError, ValueError) as error:  # of fairseq, with its options' names
            raise InputError(one_line(error)) from error

    def inference_step(
        self,
        generator: SequenceGenerator,
        models: list[FairseqLanguageModel],
        sample: dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
    ) -> list[list[dict[str, Tensor]]]:
        """Hypotheses of how the prompts of a sample continue, for each of them the best first.

        Args:
            generator: of ``build_generator``, which has the models. models, prefix_tokens: not used; prompts are read.
        """
        prompts = sample["net_input"]
        for model in generator.model.models:
            model.read(prompts["src_tokens"], prompts["src_lengths"])
        return super().inference_step(generator, models, sample, constraints=constraints)

    def build_dataset_for_inference(
        self, src_tokens: list[Tensor], src_lengths: list[int], constraints: None = None
    ) -> Prompts:
        """The prompts that fairseq-interactive has read."""
        return Prompts(src_tokens, self.cfg.tokens_per_sample, self.dictionary.pad())

    def get_interactive_tokens_and_lengths(
        self, lines: list[str], encode_fn: Callable[[str], str]
    ) -> tuple[list[Tensor], list[int]]:
        """Prompts, one in each line, which their last words do not end."""
        spelling = self._spelling()

        def read(symbols: str) -> list[int]:
            if isinstance(spelling, WordSpelling):
                return spelling.encode(symbols)
            return [self.dictionary.index(symbol) for symbol in symbols.split(" ") if symbol]

        tokens = [torch.tensor(read(encode_fn(line)), dtype=torch.int64) for line in lines]
        return tokens, list(map(len, tokens))

    def build_bpe(self, args: Any) -> Any:
        """How the data's vocabulary spells text, if not in words; InputError if an option says how, too."""
        spelling = self._spelling()
        if isinstance(spelling, WordSpelling):
            return super().build_bpe(args)
        if args is not None:
            raise InputError(f"--bpe {args._name} does not apply, because {self.cfg.data} has its own; leave it out")
        return Symbols(spelling, self.dictionary)

    def _spelling(self) -> Spelling:
        return spelling_of(data_folders(self.cfg.data)[0], self.dictionary)

    def max_positions(self) -> None:
        return None

    @property
    def source_dictionary(self) -> Dictionary:
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        return self.dictionary
