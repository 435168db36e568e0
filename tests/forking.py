"""Start a function in a fork of the process that tests run in."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def start_forked(work: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start `work(*arguments)` in a fork, which never frees what tests before have left behind.

    A fork has all objects of this process, and one of its threads: freeing a process group there would wait
    for the group's threads for ever.
    """
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    gc.freeze()
    try:
        process.start()
    finally:
        gc.unfreeze()
    return process
