"""Small files that unpack to much: decoders refuse them before memory is taken for them.

A process of its own decodes each and says by how much its peak grew.

Run: pytest tests/data/media/test_decoding_memory.py
"""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from core.root import ROOT
from data.media import video
from tests.data.samples import image_bytes, picture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")

SIDE = 4000  # pixels; 48 MB as RGB
BOUND_MB = 24  # the limits below allow pictures of 3 MB and clips of 4 MB

DECODE = """
import re, sys
from pathlib import Path
from core.errors import WorkError
from data.media.images import check, decode_video
from data.media.formats import MediaError, MediaLimits
from data.dataset.tars import samples

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000

limits = MediaLimits(pixels=int(sys.argv[1]), bytes=4_000_000 if int(sys.argv[1]) < 10**7 else 2**31)
warm, *bombs = map(Path, sys.argv[2:])
check(warm / "small.png", limits)
check(warm / "small.mp4", limits)
for path in bombs:
    before = peak()
    try:
        if path.suffix == ".tar":
            list(samples(path))
        elif path.suffix == ".mp4":
            decode_video(path.read_bytes(), limits)
        else:
            check(path, limits)
        said = "decoded"
    except (MediaError, WorkError) as error:
        said = str(error)
    print(path.name, round(peak() - before, 1), said, sep="|")
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, before: bytes = b"") -> bytes:
    """Encode an all-black grey picture; before: chunks ahead of its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(side * (side + 1)), 1))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    packed = zlib.compress(bytes(5 * 10**7), 1)
    files = {
        "small.png": image_bytes(picture(), "PNG"),
        "huge.png": png(SIDE),
        "text.png": png(16, chunk(b"zTXt", b"Comment\0\0" + packed)),
        "profile.png": png(16, chunk(b"iCCP", b"profile\0\0" + packed)),
        "packed.tar": gzip.compress(bytes(5 * 10**7), 1),
        "huge.txt": b"P5 60000 60000 255 " + bytes(100),  # no format that is taken
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    video.encode_mp4(folder / "small.mp4", frames, 8.0)
    video.encode_mp4(folder / "long.mp4", np.repeat(frames, 100, axis=0), 8.0)
    return folder


def grown(folder: Path, pixels: int, *names: str) -> dict[str, tuple[float, str]]:
    """Return {name: (MB by which the peak grew, message)} with at most so many pixels allowed."""
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(pixels), str(folder), *(str(folder / name) for name in names)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split("|", 2) for line in done.stdout.splitlines()]
    return {name: (float(megabytes), said) for name, megabytes, said in lines}


def test_a_small_file_that_unpacks_to_much_takes_no_memory(bombs: Path) -> None:
    expected = {
        "huge.png": "claims 4000x4000 pixels, the limit is 1000000",
        "text.png": "decoded",
        "profile.png": "decoded",
        "packed.tar": "a tar compressed by gzip",
        "huge.txt": "not a JPEG",
        "long.mp4": "decoded clip of 4915200 bytes, the limit is 4000000",
    }
    found = grown(bombs, 10**6, *expected)
    for name, said in expected.items():
        assert found[name][0] < BOUND_MB, found
        assert said in found[name][1], found


def test_the_measure_sees_what_a_picture_takes(bombs: Path) -> None:
    """The same picture is decoded where the limit allows it, and the measure shows it."""
    megabytes, said = grown(bombs, 64 * 10**6, "huge.png")["huge.png"]
    assert said == "decoded"
    assert megabytes > 45
