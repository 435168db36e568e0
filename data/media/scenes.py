"""Where the scene of a video changes: by the built-in difference of frames, or by PySceneDetect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data.media.clips import ClipConfig
    from data.media.video_file import Video

SMALL = 32  # pixels a side of the pictures whose difference is taken
WIDE = 256  # pixels, width of those that PySceneDetect sees, as its own reader makes them


def scene_changes(video: Video, config: ClipConfig) -> list[int]:
    """Times of the frames that a scene begins with, ascending, in units of the stream; the first is none."""
    times: list[int | None] = []
    if config.cuts == "difference":
        places = _by_difference(_pictures(video, times, SMALL, SMALL, "rgb24"), config.scene_threshold)
    else:
        context = video.context
        width = min(WIDE, context.width)
        height = max(1, round(context.height * width / context.width))
        pictures = _pictures(video, times, width, height, "bgr24")
        places = _by_pyscenedetect(pictures, float(video.times.rate), config.scene_threshold)
    return [time for place in places if (time := times[place]) is not None]


def _pictures(
    video: Video, times: list[int | None], width: int, height: int, format: str
) -> Iterator[np.ndarray]:
    """Every frame as uint8 (height, width, 3), its shape given up; `times` receives when each is shown."""
    from av.video.reformatter import VideoReformatter

    small = VideoReformatter()
    for _, frame in video.pictures():
        times.append(frame.pts)
        yield small.reformat(frame, width=width, height=height, format=format, threads=1).to_ndarray()


def _by_difference(pictures: Iterable[np.ndarray], threshold: float) -> Iterator[int]:
    """Places of pictures that differ from the one before by `threshold` or more, on average.

    Cuts are found, slow fades are not.
    """
    before: np.ndarray | None = None
    for place, picture in enumerate(pictures):
        now = picture.astype(np.int16)
        if before is not None and np.abs(now - before).mean() >= threshold:
            yield place
        before = now


def _by_pyscenedetect(pictures: Iterable[np.ndarray], fps: float, threshold: float) -> Iterator[int]:
    """The same by its ContentDetector, which compares hue, saturation and luma and passes over flashes."""
    from scenedetect import FrameTimecode
    from scenedetect.detectors import ContentDetector

    detector = ContentDetector(threshold=threshold)
    time = FrameTimecode(0, fps)
    for place, picture in enumerate(pictures):
        time = FrameTimecode(place, fps)
        yield from (cut.frame_num for cut in detector.process_frame(time, picture))
    yield from (cut.frame_num for cut in detector.post_process(time))
