"""Map a function over many items, in this process or in worker processes that end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from core.errors import WorkError
from core.progress import Progress
from core.run.signals import SIGNALS


def each(
    function: Callable[..., None],
    calls: Sequence[tuple[Any, ...]],
    weights: Sequence[int],
    processes: int,
    progress: Progress,
) -> None:
    """Call `function` with each tuple of arguments, in `processes` processes if that is more than one.

    weights: by how much each finished call advances `progress`.  The first error ends all; WorkError if a
    process is killed.
    """
    if processes == 1 or len(calls) < 2:
        for arguments, weight in zip(calls, weights, strict=True):
            function(*arguments)
            progress.advance(weight)
        return
    context = multiprocessing.get_context("spawn")  # no forked threads of numeric libraries
    with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:
        futures: dict[Future[None], int] = {
            pool.submit(function, *arguments): weight
            for arguments, weight in zip(calls, weights, strict=True)
        }
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(futures[future])
        except BrokenProcessPool:
            raise WorkError("a process that shared the work died (killed, or out of memory)") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Make a worker end when the job does, and only then: signals are for the job, which may be continued."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
