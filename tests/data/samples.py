"""Small real pictures, clips and tars for the data tests."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from data.media.images import encode_mp4


def picture(height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    """Draw a smooth picture with a mark in one corner, so that every turn of it differs: uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * y / height, 255 * x / width, np.full((height, width), 37 * seed % 256)]
    pixels = np.stack(channels, -1).astype(np.uint8)
    pixels[:3, :3] = 255
    return pixels


def image_bytes(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def clip(frames: int = 9, height: int = 32, width: int = 48) -> np.ndarray:
    """Draw a bright square that moves by 3 pixels a frame, uint8 (T, H, W, 3)."""
    pixels = np.full((frames, height, width, 3), 40, np.uint8)
    for number in range(frames):
        left = 3 * number % (width - 10)
        pixels[number, 8:20, left : left + 10] = (230, 180, 60)
    return pixels


def clip_bytes(folder: Path, frames: int = 9, fps: float = 8.0) -> bytes:
    path = folder / f".clip-{frames}-{fps}.mp4"
    encode_mp4(path, clip(frames), fps)
    data = path.read_bytes()
    path.unlink()
    return data


def huge_png(width: int = 60000, height: int = 60000) -> bytes:
    """Return a PNG of a hundred bytes whose header claims an enormous picture."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def image_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> Path:
    """Write different pictures as `root/CLASS/N.png`."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k in range(each):
            (root / name / f"{k}.png").write_bytes(image_bytes(picture(seed=number * each + k)))
    return root


def tar_bytes(members: list[tuple[str, bytes]], **attributes: object) -> bytes:
    """Return a USTAR archive of the members, in order; `attributes` are set on every header."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()
