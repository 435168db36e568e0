"""Read animated pictures (GIF, WebP, APNG, AVIF) as films; each picture is shown as long as its file says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from core.progress import counted
from data.media.colour import ColourMode, over_white
from data.media.film.times import Times
from data.media.formats import MediaError, MediaLimits
from data.media.stills.canvases import composed, has_mixed_pictures
from data.media.stills.deep import delays_of_avif
from data.media.stills.rendering import Pixels, from_image, require_convertible, shown_part, turned
from data.media.stills.still import Still, opened_image
from data.media.video import wanted_frames

SHORTEST_MS, INSTEAD_MS = 10, 100  # delays up to the first count as the second, as browsers show them


def animation_frames(still: Still, limits: MediaLimits, mode: ColourMode) -> Iterator[tuple[float, Pixels]]:
    """Yield (milliseconds for which it is shown, uint8 (H, W, 3)) of each picture.

    Each picture is drawn whole, as the file says that it covers the one before, over white.
    """
    require_convertible(still, mode)
    if still.frames > limits.frames:
        raise MediaError(f"has more than {limits.frames} frames, the limit")
    for delay, image in _pictures(still):
        pixels, alpha = from_image(still, image, mode)
        shown = pixels if alpha is None else over_white(pixels, alpha)
        shown = turned(shown_part(still, shown), still.orientation)
        yield delay if delay > SHORTEST_MS else INSTEAD_MS, shown


def _pictures(still: Still) -> Iterator[tuple[float, Any]]:
    """Yield (milliseconds for which it is shown, loaded Pillow image) of each picture."""
    if still.suffix == "png" and has_mixed_pictures(still.data):
        yield from composed(still.data, opened_image)
        return
    whole = still.image.n_frames
    exact = delays_of_avif(still.data, still.frames) if still.suffix == "avif" else None
    for number in range(whole - still.frames, whole):  # a PNG may have a picture before those of its film
        still.image.seek(number)
        still.image.load()
        yield float(exact[number] if exact else still.image.info.get("duration") or 0), still.image


def decode_animation(
    still: Still,
    limits: MediaLimits,
    frames: tuple[int, int | None, int],
    fps: float | None,
    mode: ColourMode,
) -> np.ndarray:
    """Decode chosen pictures to uint8 (T, H, W, 3); arguments as of `data.media.video.decode_video`."""
    times = _times(still, limits, mode) if fps else None
    numbers = wanted_frames(still.frames, times, frames, fps)
    width, height = still.size
    limits.check_bytes(3 * width * height * len(numbers), "decoded clip")
    wanted = set(numbers)
    pictures = {n: p for n, (_, p) in enumerate(animation_frames(still, limits, mode)) if n in wanted}
    if len({picture.shape for picture in pictures.values()}) != 1 or len(pictures) < len(wanted):
        raise MediaError(
            f"damaged image: {len(pictures)} of {counted(len(wanted), 'frame')}, or several sizes"
        )
    return np.stack([pictures[number] for number in numbers])


def _times(still: Still, limits: MediaLimits, mode: ColourMode) -> Times:
    """Return when the pictures are shown, in milliseconds."""
    delays = [delay for delay, _ in animation_frames(still, limits, mode)]
    *ticks, end = map(round, itertools.accumulate(delays, initial=0))
    return Times(tuple(ticks), Fraction(1, 1000), end, Fraction(1000 * len(delays), end), True)
