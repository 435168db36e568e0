"""Count calls of the file system that this process makes, as a server of a shared folder sees them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

_EVENTS = {"open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir", "os.utime"}
_STATS = ("stat", "lstat")  # calls that raise no audit event
_counted: list[Counter[str]] = []


@contextlib.contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count by name, within the block, what all threads of this process ask of the file system by path.

    Reading, writing and closing what is open are not counted.
    """
    if not _hooked:
        sys.addaudithook(_note)  # for good: a hook cannot be taken away
        _hooked.append(True)
    calls: Counter[str] = Counter()

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **more)

        return call

    _counted.append(calls)
    try:
        with contextlib.ExitStack() as stack:
            for name in _STATS:
                stack.enter_context(mock.patch.object(os, name, noting(name, getattr(os, name))))
            yield calls
    finally:
        _counted.remove(calls)


_hooked: list[bool] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _counted and event in _EVENTS:
        for calls in _counted:
            calls[event.removeprefix("os.")] += 1
