"""Name the errors of a broken device, so that no unit of work is blamed for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from core.run import ends


class DeviceError(RuntimeError):
    """The device of this worker has failed, which no unit is to blame for."""


@contextlib.contextmanager
def naming_device() -> Iterator[None]:
    """Turn what a broken device raises into DeviceError."""
    try:
        yield
    except RuntimeError as error:
        if ends.kind_of(error) == "device":
            raise DeviceError(str(error)) from error
        raise
