"""What the program ffmpeg makes of a video, to compare with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest


def require_ffmpeg() -> None:
    """Skip the test where there is no ffmpeg; fail it where LONGTAKE_FFMPEG=required says there must be."""
    if shutil.which("ffmpeg") is None:
        if os.environ.get("LONGTAKE_FFMPEG") == "required":
            pytest.fail("LONGTAKE_FFMPEG=required, and this machine lacks ffmpeg")
        pytest.skip("needs the program ffmpeg")


def frames_of(path: Path, data: bytes, filters: str = "null", *options: str) -> np.ndarray:
    """(T, H, W) uint8: the luma of the frames that ffmpeg shows of the bytes, which are written to `path`."""
    path.write_bytes(data)
    command = ["ffmpeg", "-v", "error", *options, "-i", str(path), "-vf", filters, "-vsync", "passthrough"]
    command += ["-pix_fmt", "gray", "-f", "yuv4mpegpipe", "-strict", "-1", "-"]
    out = subprocess.run(command, check=True, capture_output=True).stdout
    header, _, rest = out.partition(b"\n")
    fields = {part[:1]: part[1:] for part in header.split()[1:]}
    width, height = int(fields[b"W"]), int(fields[b"H"])
    frames = [
        np.frombuffer(rest[at + 6 : at + 6 + width * height], np.uint8)
        for at in _starts(rest, width * height)
    ]
    return np.stack(frames).reshape(-1, height, width)


def _starts(rest: bytes, size: int) -> range:
    return range(0, len(rest), size + 6)  # each begins with FRAME and an end of line
