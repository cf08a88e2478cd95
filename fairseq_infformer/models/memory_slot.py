"""The memory between two segments, and where a segment that comes again starts from."""

import logging
from typing import NamedTuple, Optional

from fairseq_infformer.modules.decoder_layer import LayerState

logger = logging.getLogger(__name__)


class MemorySlot(NamedTuple):
    """The memory of all layers after one segment, and before the update of the weights that it belongs to.

    An update may take several segments (``--update-freq``). Where its gradients overflow under ``--amp``, fairseq
    runs all of them again. An update that is given up (``--amp``, ``--fp16``) has the number of the one that follows.
    """

    segment: int  # the number of the last segment
    after: tuple[LayerState, ...]
    first: int  # the number of the segment that the update began with
    before: tuple[LayerState, ...]  # what that segment began with
    update: Optional[int] = None  # the number of the update; None: every segment stands alone
    last: Optional[int] = None  # the update's last segment, known once it is run again

    def start_of(self, segment: int) -> Optional[tuple[LayerState, ...]]:
        """The memory that a segment begins with; None, with a warning, if segments before it are missing."""
        if segment == self.segment + 1:
            return self.after
        if segment == self.first:
            return self.before
        logger.warning(
            f"the memory ends with segment {self.segment} and the batch is segment {segment}: what lies between was "
            "not read, so the memory starts empty"
        )
        return None


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
