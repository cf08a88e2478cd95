"""The memory between two segments, and the memory with which a segment that comes again starts."""

from typing import NamedTuple, Optional


class StreamMemory(NamedTuple):
    """The memory of all layers after one segment, and before the update of the weights that the segment belongs to.

    An update may take several segments (``--update-freq``). If its gradients overflow under ``--amp``, fairseq runs all
    of them again. An update that is given up (``--amp``, ``--fp16``) has the same number as the one after it.
    """

    segment: Optional[int]  # number of the last segment; None if it was read before this run was resumed
    after: tuple[NamedTuple, ...]
    first: Optional[int] = None  # number of the update's first segment
    before: Optional[tuple[NamedTuple, ...]] = None  # the memory before that segment
    update: Optional[int] = None  # number of the update; None: every segment is an update
    last: Optional[int] = None  # number of the update's last segment, known once the update is run again

    def start_of(self, segment: int) -> Optional[tuple[NamedTuple, ...]]:
        """The memory with which a segment starts; None if segments before it were not read."""
        if self.segment is None or segment == self.segment + 1:
            return self.after
        return self.before if segment == self.first else None


def next_memory(
    memory: Optional[StreamMemory],
    segment: int,
    before: tuple[NamedTuple, ...],
    after: tuple[NamedTuple, ...],
    update: Optional[int],
) -> StreamMemory:
    """The memory after a segment of the update was read, from ``memory``, with which the segment started."""
    last = None
    if memory is not None and update is not None and update == memory.update:
        if segment == memory.segment + 1 and memory.segment != memory.last:
            return memory._replace(segment=segment, after=after)
        if segment == memory.first:
            last = memory.segment if memory.last is None else memory.last
    return StreamMemory(segment, after, segment, before, update, last)
