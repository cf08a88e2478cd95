"""The memory between two segments, and where a segment that comes again starts from."""

from typing import NamedTuple, Optional

from fairseq_infformer.modules.layers import LayerState


class MemorySlot(NamedTuple):
    """The memory of all layers after one segment, and before the update of the weights that it belongs to.

    An update may take several segments (``--update-freq``). Where its gradients overflow under ``--amp``, fairseq
    runs all of them again. An update that is given up (``--amp``, ``--fp16``) has the number of the one that follows.
    """

    segment: Optional[int]  # the number of the last segment; None: of a run that this one goes on with
    after: tuple[LayerState, ...]
    first: Optional[int] = None  # the number of the segment that the update began with
    before: Optional[tuple[LayerState, ...]] = None  # what that segment began with
    update: Optional[int] = None  # the number of the update; None: every segment stands alone
    last: Optional[int] = None  # the update's last segment, known once it is run again

    def start_of(self, segment: int) -> Optional[tuple[LayerState, ...]]:
        """The memory that a segment begins with; None if segments before it are missing."""
        if self.segment is None or segment == self.segment + 1:
            return self.after
        return self.before if segment == self.first else None


def next_slot(
    slot: Optional[MemorySlot],
    segment: int,
    before: tuple[LayerState, ...],
    after: tuple[LayerState, ...],
    update: Optional[int],
) -> MemorySlot:
    """The slot once a segment of the update has been read, from the one that it began with."""
    last = None
    if slot is not None and update is not None and update == slot.update:
        if segment == slot.segment + 1 and slot.segment != slot.last:
            return slot._replace(segment=segment, after=after)
        if segment == slot.first:
            last = slot.segment if slot.last is None else slot.last
    return MemorySlot(segment, after, segment, before, update, last)
