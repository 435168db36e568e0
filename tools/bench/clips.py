"""PyAV as the measurements use it: material, a naive loop, and the limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange


def write_video(path: Path, seed: int, frames: int) -> Path:
    """Write 854x480 H.264 at 24 frames a second, a keyframe every 48: smooth moving shapes under grain."""
    import av

    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, 16, 16)).astype(np.float32))
    scene = torch.nn.functional.interpolate(coarse, (640, 1200), mode="bicubic")[0]
    with av.open(str(path), "w") as container:
        options = {"g": "48", "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 854, 480, "yuv420p"
        for number in range(frames):
            window = rearrange(
                scene[:, number : number + 480, 2 * number : 2 * number + 854], "c h w -> h w c"
            )
            grain = random.normal(0, 4, (480, 854, 1))
            pixels = (window.numpy() + grain).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def pyav_clip(path: Path, start: int, frames: int, side: int) -> np.ndarray:
    """Decode a clip to uint8 (T, side, side, 3) naively: seek, convert by `to_ndarray`, resize with torch."""
    import av

    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in _frames_from(container, start, frames)]
    x = rearrange(torch.from_numpy(np.stack(pictures)), "t h w c -> t c h w").float()
    scale = side / min(x.shape[-2:])
    size = [round(x.shape[-2] * scale), round(x.shape[-1] * scale)]
    x = torch.nn.functional.interpolate(x, size, mode="bicubic", antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    x = x[..., top : top + side, left : left + side].round().clamp(0, 255).to(torch.uint8)
    return rearrange(x, "t c h w -> t h w c").numpy()


def pyav_decode_only(path: Path, start: int, frames: int) -> int:
    """Decode the same frames on one thread, drop them, and return their number: the limit."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in _frames_from(container, start, frames))


def _frames_from(container: Any, start: int, frames: int) -> Iterator[Any]:
    stream = container.streams.video[0]
    ticks = 1 / (stream.average_rate * stream.time_base)  # duration of a frame
    container.seek(round(start * ticks), stream=stream)
    taken = 0
    for frame in container.decode(stream):
        if round(frame.pts / ticks) >= start:
            yield frame
            taken += 1
        if taken == frames:
            return
