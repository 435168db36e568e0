"""Facts about a node that need no torch: its driver, and the speed of a folder."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from core.files import read_text, temporary_name

WRITTEN_BYTES = 32 << 20


def driver_version() -> str:
    """Return the version of NVIDIA's kernel module; '' where the system does not say."""
    with contextlib.suppress(OSError):
        return read_text(Path("/sys/module/nvidia/version")).strip()
    return ""


def write_speed(folder: Path) -> float:
    """Return the bytes a second that reach the disk below `folder`."""
    path = temporary_name(folder / "preflight")
    data = os.urandom(1 << 20)  # incompressible data
    started = time.perf_counter()
    try:
        with open(path, "wb") as file:
            for _ in range(WRITTEN_BYTES // len(data)):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return WRITTEN_BYTES / (time.perf_counter() - started)
    finally:
        path.unlink(missing_ok=True)
