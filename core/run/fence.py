"""An attempt at a run that has lost it to a newer one ends, whatever it is at.

Rows and checkpoints are never written without a look at who owns the run. But a long step, a validation or a
slow start come to none for a while, and two attempts would compute the same. So a thread looks as well.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from core.errors import WorkError
from core.run import ends
from core.run.last_line import tell

EVERY_S = 20.0
EXIT_STATUS = 1  # as WorkError's


@contextlib.contextmanager
def fenced(
    require_owner: Callable[[], None],
    every_s: float | None = None,
    end: Callable[[int], object] = os._exit,
) -> Iterator[None]:
    """End the process within `every_s` seconds once `require_owner` raises WorkError; until the block ends.

    every_s: the default is EVERY_S.  end: ends the process with a status.
    """
    period_s, ended = EVERY_S if every_s is None else every_s, threading.Event()

    def watch() -> None:
        while True:
            try:
                require_owner()
            except WorkError as error:
                if not ended.is_set():
                    tell(str(error))
                    ends.record("work", EXIT_STATUS, str(error))
                    end(EXIT_STATUS)
                return
            except (OSError, ValueError):
                pass  # storage does not answer just now, which says nothing of the owner
            if ended.wait(period_s):
                return

    threading.Thread(target=watch, name="fence", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
