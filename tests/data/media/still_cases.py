"""A picture that tests of stills save in every kind, and what Pillow makes of it."""

import io

import numpy as np
from PIL import Image, ImageCms

Y, X = np.mgrid[:48, :64]
PICTURE = np.stack(
    [128 + 100 * np.sin(0.1 * X + 0.05 * Y), 128 + 100 * np.cos(0.07 * Y), 128 + 90 * np.sin(0.2 * X)], -1
).astype(np.uint8)
KINDS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tif": "TIFF",
    "avif": "AVIF",
}
EXACT = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "BMP": {}}


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def by_pillow(pixels: np.ndarray, data: bytes) -> np.ndarray:
    """Convert a picture with LittleCMS as a caller of Pillow would."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(data))
    image = ImageCms.profileToProfile(
        Image.fromarray(pixels), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return np.asarray(image).astype(int)
