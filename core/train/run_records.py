"""The records of a run together: owner, lengths at a checkpoint, and whether the disk has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any

from core.distributed import ranks
from core.files import regular
from core.metrics.record_tally import Tally, carried_on, end_differs, whole_differs
from core.metrics.record_writer import RecordWriter
from core.progress import say

SIZES = "records"  # in a checkpoint's state: file name -> what the record was at that moment


class RunRecords:
    """The files that rank 0 appends to; every rank holds one of these, and only rank 0's writes."""

    def __init__(self, writers: Sequence[RecordWriter]) -> None:
        self._writers = writers

    def own(self, attempt: str, require_owner: Callable[[], None], state: Mapping[str, Any] | None) -> None:
        """Write for `attempt`, which goes on from a checkpoint's state.

        What differs in length or in the last block from what the checkpoint notes is said.
        """
        sizes = state.get(SIZES, {}) if state else {}
        for writer in self._writers:
            found = sizes.get(writer.path.name)
            noted = Tally.read(found)
            if noted is not None and ranks.is_first() and (difference := end_differs(writer.path, noted)):
                _warn(writer, difference)
            size = found if isinstance(found, int) else noted.size if noted else None
            writer.own(attempt, require_owner, size, noted)

    def compare(self) -> Thread | None:
        """Compare whole files with what the checkpoint notes, on rank 0; what differs is said.

        Called when every record stands where the run continues. The thread that is returned reads the files
        piece by piece, beside training.
        """
        if not ranks.is_first():
            return None
        every = [(writer, writer.noted, writer.size, writer.stand) for writer in self._writers]
        thread = Thread(target=_compare_all, args=(every,), name="records", daemon=True)
        thread.start()
        return thread

    def sync(self) -> str:
        """Write the rows that wait; return those that the disk does not have, "" for none (collective).

        WorkError on all ranks where a newer attempt has taken the run over.
        """
        return str(ranks.on_first_rank(lambda: "; ".join(filter(None, [w.sync() for w in self._writers]))))

    def sizes(self) -> dict[str, dict[str, Any]]:
        """Return a checkpoint's note on the records; valid on rank 0, which writes its state."""
        noted = ((writer, writer.tally()) for writer in self._writers)
        return {SIZES: {w.path.name: w.size if tally is None else tally.noted() for w, tally in noted}}


def _compare_all(every: Sequence[tuple[RecordWriter, Tally | None, int, object]]) -> None:
    for writer, noted, size, stand in every:
        _compare(writer, noted, size, stand)


def _compare(writer: RecordWriter, noted: Tally | None, size: int, stand: object) -> None:
    """Read a record from its beginning: as far as the checkpoint notes, else as it was at the start."""
    try:
        with open(writer.path, "rb", opener=regular) as file:
            found = carried_on(Tally(), file, size if noted is None else noted.size)
    except OSError:
        return  # the writer reports it
    if noted is None:
        writer.take_tally(found, stand)
    elif found.size == noted.size and (difference := whole_differs(noted, found)):
        _warn(writer, difference)


def _warn(writer: RecordWriter, difference: str) -> None:
    say(f"warning: {writer.path} was changed or damaged since its run was last saved: {difference}")
