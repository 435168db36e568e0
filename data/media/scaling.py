"""From decoded frames to pixels of one size: crop, resize and convert to RGB in one pass of swscale.

Frames of videos are planes of luma and of chroma that has fewer samples. To make RGB of a whole frame first
costs more than to decode it, and resizes twice: chroma to the frame, then everything to the size that is
wanted. Here each plane goes to that size at once, and only then becomes RGB.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.media.colour import ColourMode
from data.media.film.geometry import Geometry, turn_of
from data.media.film.looks import look_of, to_rgb

# What is done to pictures and to frames: part of what a latent cache says it was made with.
RESIZE = {
    "images": "Pillow bicubic, antialiased, to cover; centre crop",
    "videos": "swscale bicubic of the planes, antialiased, chroma where it was sampled, to cover; "
    "centre crop with its edges on the chroma grid",
}


PLAIN = Geometry()


def covering_box(
    source: tuple[float, float], target: tuple[int, int], position: tuple[float, float] = (0.5, 0.5)
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom): the largest part of `source` that has the shape of `target`.

    source, target: (height, width).  position: where in the surplus, (vertical, horizontal) in [0, 1].
    """
    scale = min(source[0] / target[0], source[1] / target[1])
    top, bottom = _span(source[0], target[0] * scale, position[0])
    left, right = _span(source[1], target[1] * scale, position[1])
    return left, top, right, bottom


def _span(whole: float, part: float, position: float) -> tuple[float, float]:
    """(first, last) edge of a part of `whole` pixels; both lie in [0, whole].

    n * (whole / n) rounds to slightly more than `whole` for 1 to 4 % of sizes (1600 pixels into 352, say), so
    the surplus must be kept from being negative: Pillow refuses a box that begins at -1e-13.
    """
    first = max(0.0, whole - part) * position
    return first, min(first + part, whole)


def sharp_filter() -> Any:
    """swscale's flags by which all frames are scaled and become RGB."""
    from av.video.reformatter import Interpolation

    return (
        Interpolation.BICUBIC
        | Interpolation.FULL_CHR_H_INT  # else two neighbours share the colour of one
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.ACCURATE_RND
        | Interpolation.BITEXACT  # no shortcuts that only some processors have
    )


class Scaler:
    """Writes frames as RGB of (height, width), as displayed; a part in the centre fills it.

    Bicubic with a = -0.6, antialiased. The part begins and ends where chroma samples do, up to a pixel of the
    frame from the exact centre, so that luma and chroma stay registered. Pixels that are not square become
    so in the same pass.
    """

    def __init__(
        self, height: int, width: int, geometry: Geometry = PLAIN, colour: ColourMode = "convert"
    ) -> None:
        from av.video.reformatter import VideoReformatter

        self.size, self.geometry, self._colour = (height, width), geometry, colour
        self._reformatter = VideoReformatter()  # one for all: each new one sets its filters up anew
        self._filter = sharp_filter()
        self._crop: tuple[Any, Any] = (None, None)  # for which frames and part, the graph

    def write(self, frame: Any, out: np.ndarray) -> None:
        """Fill uint8 (H, W, 3) from a frame of any size and format."""
        turn = turn_of(frame)
        height, width = self.size[::-1] if turn.swap else self.size
        look = look_of(frame, self._colour)
        small = self._reformatter.reformat(
            self._cropped(frame, height, width),
            width=width,
            height=height,
            format=look.format,
            src_colorspace=look.matrix,
            interpolation=self._filter,
            threads=1,
        )
        for channel, values in enumerate(to_rgb(small, look)):
            out[..., channel] = turn.apply(values)

    def _cropped(self, frame: Any, height: int, width: int) -> Any:
        """The part to be seen, without a copy: the planes of the frame, from further inside."""
        box = grid_box(frame, height, width, self.geometry)
        if box == (0, 0, frame.width, frame.height):
            return frame
        key = box, frame.width, frame.height, frame.format.name
        if self._crop[0] != key:
            self._crop = key, _crop_graph(frame, box)
        graph = self._crop[1]
        graph.vpush(frame)
        return graph.vpull()


def displayed_size(frame: Any, geometry: Geometry = PLAIN) -> tuple[int, int]:
    """(height, width) of a frame as it is shown: cut, of square pixels, turned."""
    return geometry.shown(frame.width, frame.height, turn_of(frame))


def grid_box(frame: Any, height: int, width: int, geometry: Geometry = PLAIN) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the part of a decoded frame that covers height x width.

    It lies on the grid of chroma samples, and within what the container shows of the frame.
    """
    left, top, across, down = geometry.box(frame.width, frame.height)
    wide, high = geometry.square(frame.width, frame.height)
    box = covering_box((float(high), float(wide)), (height, width))
    part = (box[2] - box[0]) * across / float(wide), (box[3] - box[1]) * down / float(high)
    steps = _chroma_steps(frame)
    first_column, part_width = _on_grid(part[0], across, steps[0])
    first_row, part_height = _on_grid(part[1], down, steps[1])
    return left + first_column, top + first_row, part_width, part_height


def _chroma_steps(frame: Any) -> tuple[int, int]:
    """Pixels from a chroma sample to the next, (across, down)."""
    return 8 // frame.format.chroma_width(8), 8 // frame.format.chroma_height(8)


def _on_grid(part: float, whole: int, step: int) -> tuple[int, int]:
    """(first, length) of the middle `part` of `whole` pixels, in steps; where that is nearly all, all.

    All too where `whole` is less than a step, as in a frame 3 pixels wide whose chroma has a sample for 4.
    """
    if whole - part < step / 2 or whole < step:
        return 0, whole
    length = min(max(step, step * round(part / step)), whole // step * step)
    return (whole - length) // 2 // step * step, length


def _crop_graph(frame: Any, box: tuple[int, int, int, int]) -> Any:
    from av.filter import Graph

    left, top, width, height = box
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    across, down = _chroma_steps(frame)
    # Else the filter rounds to whole steps, and what is less than one to nothing. What a container cuts off
    # may begin between two chroma samples; chroma is then off by half a pixel, as with ffmpeg.
    exact = int(left % across > 0 or top % down > 0 or width < across or height < down)
    graph.link_nodes(
        source, graph.add("crop", f"{width}:{height}:{left}:{top}:exact={exact}"), graph.add("buffersink")
    ).configure()
    return graph
