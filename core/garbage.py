"""Suspend Python's garbage collection while a program starts, or makes many objects that stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Suspend garbage collection while many objects are made that stay, as values of a large file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def none_expected() -> Iterator[None]:
    """Suspend garbage collection during imports, and exempt all objects that exist at the end from it.

    A training run imports half a million objects that all stay. Python would look at them a dozen times while
    they come in and at every full collection afterwards; that is a tenth of the start, and finds nothing.
    """
    with put_off():
        try:
            yield
        finally:
            gc.freeze()
