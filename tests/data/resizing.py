"""Resizing in float64 from its definition, to compare fast ways with."""

from typing import Any

import numpy as np


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic convolution kernel (1981, equation 4), `a` its free parameter."""
    x = np.abs(x)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def weights(samples: int, size: int, low: float, high: float, a: float) -> np.ndarray:
    """Return weights (size, samples) of samples at 0.5, 1.5, ... in each pixel of the range low to high."""
    scale = (high - low) / size
    centres = low + (np.arange(size) + 0.5) * scale
    kernel = cubic((np.arange(samples) + 0.5 - centres[:, None]) / max(scale, 1), a)
    return kernel / kernel.sum(1, keepdims=True)


def planes_of(frame: Any) -> list[np.ndarray]:
    """Return each plane of a planar frame, uint8 (h, w)."""
    return [
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].copy()
        for plane in frame.planes
    ]


def resized(
    frame: Any, box: tuple[float, float, float, float], height: int, width: int, a: float = -0.6
) -> np.ndarray:
    """Resize a part (left, top, right, bottom) of a limited-range BT.601 yuv420p frame: float64 (H, W, 3).

    Chroma lies where MPEG-2, H.264 and HEVC put it: in a row at every second luma sample, between two rows.
    """
    left, top, right, bottom = box
    luma, *chroma = (plane.astype(float) for plane in planes_of(frame))
    y = weights(luma.shape[0], height, top, bottom, a) @ luma
    y = y @ weights(luma.shape[1], width, left, right, a).T
    u, v = (
        weights(plane.shape[0], height, top / 2, bottom / 2, a)
        @ plane
        @ weights(plane.shape[1], width, left / 2 + 0.25, right / 2 + 0.25, a).T
        for plane in chroma
    )
    y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    red, blue = y + 2 * (1 - 0.299) * v, y + 2 * (1 - 0.114) * u
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    return np.clip(255 * np.stack([red, green, blue], -1), 0, 255)
