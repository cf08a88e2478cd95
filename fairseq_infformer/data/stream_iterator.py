"""Batches of parallel streams in the order of the text, and the position of a checkpoint in them."""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import torch
import torch.distributed as dist
from fairseq.data import iterators
from torch import Tensor

from fairseq_infformer.data.streaming_dataset import Streams
from fairseq_infformer.errors import InputError

Memory = dict[str, Tensor]  # tensors whose first axis is the rows of a batch


class Saved(NamedTuple):
    """A memory as a checkpoint holds it, with the number of its format; 0 before formats had numbers."""

    memory: Memory
    format: int


class StreamIterator(iterators.EpochBatchIterator):
    """The batches of one of ``num_shards`` ranks, nothing shuffled or dropped.

    A checkpoint in the middle of an epoch holds the memory of each stream: without it, training would resume in the
    middle of texts whose start it has not read. At the end of an epoch there is none, since every stream starts over.

    Args:
        streams: the corpus in as many streams as all ranks have rows.
        collect: returns the memory of the rows of all ranks; called on the rank that writes the checkpoint.
        restore: takes the memory of the rows of this rank.
    """

    def __init__(
        self,
        streams: Streams,
        num_shards: int = 1,
        shard_id: int = 0,
        collect: Optional[Callable[[], Optional[Saved]]] = None,
        restore: Optional[Callable[[Saved], None]] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            dataset=streams,
            collate_fn=streams.collater,
            batch_sampler=streams.batches(num_shards),
            num_shards=num_shards,
            shard_id=shard_id,
            disable_shuffling=True,
            **kwargs,
        )
        self.collect, self.restore = collect, restore

    @property
    def _streams(self) -> dict[str, int]:
        """The settings on which the meaning of a position in the streams depends."""
        return {
            "--batch-size": self.dataset.num_streams // self.num_shards,
            "processes": self.num_shards,
            "--tokens-per-sample": self.dataset.tokens_per_sample,
            "--bptt-segments": self.dataset.segments_per_sample,
            "tokens": len(self.dataset.tokens),
            "documents": len(self.dataset.documents),
        }

    def state_dict(self) -> dict[str, Any]:
        """Position, the shape of the streams and, in the middle of an epoch, their memory."""
        state = super().state_dict()
        state["streams"] = self._streams
        if self.collect and state["iterations_in_epoch"]:
            saved = self.collect()
            state["memory"], state["memory_format"] = saved or (None, 0)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from ``state_dict``; InputError if it is a position in the middle of other streams than these."""
        if state_dict.get("iterations_in_epoch", 0):
            saved, current = state_dict.get("streams", {}), self._streams
            if saved:
                saved = {"--bptt-segments": 1} | saved  # missing in earlier checkpoints
            differing = [name for name in saved if saved[name] != current.get(name)]
            if differing:
                raise InputError(
                    "the checkpoint was saved in the middle of an epoch with "
                    + ", ".join(f"{name} {saved[name]} (now {current.get(name)})" for name in differing)
                    + "; resume with the same, or give --reset-dataloader to start the text over with an empty memory"
                )
            if self.restore and state_dict.get("memory"):
                memory = rows_of(state_dict["memory"], self.num_shards, self.shard_id)
                self.restore(Saved(memory, state_dict.get("memory_format", 0)))
        super().load_state_dict(state_dict)


def gather_rows(memory: Memory, group: Any, device: torch.device) -> Optional[Memory]:
    """The memory of all ranks on the CPU, rank after rank, on the first rank of ``group``; None on the others.

    Args:
        memory: of this rank; shapes are equal on all ranks.
        group: the process group, all of whose ranks must call this; None: there is one process.
        device: on which the group's backend needs tensors.
    """
    if group is None or dist.get_world_size(group) == 1:
        return {name: rows.cpu() for name, rows in memory.items()}
    first = dist.get_rank(group) == 0
    gathered = {}
    for name, rows in memory.items():
        rows = rows.to(device).contiguous()
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))] if first else None
        dist.gather(rows, parts, dst=dist.get_global_rank(group, 0), group=group)
        if first:
            gathered[name] = torch.cat(parts).cpu()
    return gathered if first else None


def rows_of(memory: Memory, num_shards: int, shard_id: int) -> Memory:
    """The share of one rank in what ``gather_rows`` returned."""
    return {name: rows.chunk(num_shards)[shard_id].clone() for name, rows in memory.items()}
