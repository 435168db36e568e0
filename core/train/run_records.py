"""The records of a run together: whose they are, how long at a checkpoint, and whether the disk has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.distributed import ranks
from core.record_writer import RecordWriter

SIZES = "records"  # in a checkpoint's state: file name -> bytes of the record at that moment


class RunRecords:
    """The files that rank 0 appends to; every rank holds one of these, and only rank 0's writes."""

    def __init__(self, writers: Sequence[RecordWriter]) -> None:
        self._writers = writers

    def own(self, attempt: str, require_owner: Callable[[], None], state: Mapping[str, Any] | None) -> None:
        """Write for `attempt`, which goes on from a checkpoint's state."""
        sizes = state.get(SIZES, {}) if state else {}
        for writer in self._writers:
            writer.own(attempt, require_owner, sizes.get(writer.path.name))

    def sync(self) -> str:
        """Write what waits; return what the disk does not have, "" for nothing (collective).

        WorkError on all ranks where a newer attempt has taken the run over.
        """
        return str(ranks.on_first_rank(lambda: "; ".join(filter(None, [w.sync() for w in self._writers]))))

    def sizes(self) -> dict[str, dict[str, int]]:
        """What a checkpoint notes of the records; true on rank 0, which writes its state."""
        return {SIZES: {writer.path.name: writer.size for writer in self._writers}}
