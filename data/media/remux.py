"""Packets of videos through PyAV: list them, and copy a run of them into a new file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from data.media.clips import Clip, ClipConfig, Packet, cut_video
from data.media.film.decoders import has_side_alpha
from data.media.film.streams import choose_stream
from data.media.formats import HEAD, VIDEO_FORMATS, MediaError, MediaLimits, suffix_of
from data.media.scenes import scene_changes
from data.media.video_file import Video, opened_video

_CONTAINERS = {"mp4": "mp4", "mkv": "matroska", "avi": "matroska"}  # AVI has no times of display


class BinaryFile(Protocol):
    """The methods that reading from a file needs."""

    def read(self, size: int = -1, /) -> bytes | None:
        """Read up to `size` bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a position."""
        ...


def clips_of(data: bytes, config: ClipConfig, limits: MediaLimits) -> tuple[tuple[Clip, ...] | None, float]:
    """Return the clips that a video is cut into (None: it stays whole), and the seconds of their time unit.

    MediaError if it cannot be cut.
    """
    with opened_video(data, limits) as video:
        changes = scene_changes(video, config) if config.scenes else []
        unit_s = float(video.stream.time_base)
        clips = cut_video(_packets(video), changes, config, unit_s)
        if not clips:
            raise MediaError("cannot be cut: no scene has a keyframe to begin with")
        is_whole = len(clips) == 1 and clips[0].frames == video.frames
        if video.has_palette and not is_whole:
            raise MediaError("cannot be cut: its palette stands before its first frame alone")
        if not is_whole:
            with contextlib.ExitStack() as stack:
                _target(stack, io.BytesIO(), video.suffix, video.stream)
        return None if is_whole else tuple(clips), unit_s


def copy_clip(file: BinaryFile, clip: Clip, limits: MediaLimits) -> bytes:
    """Copy a clip of the video in `file` to a file of its own, without sound; equal bytes each time.

    MediaError if the video is damaged, or not the one in which the clip was found.
    """
    import av

    limits.check_bytes(clip.bytes, "clip")
    suffix = suffix_of(file.read(HEAD) or b"")
    file.seek(0)
    out = io.BytesIO()
    try:
        with (
            av.open(file, "r", format=VIDEO_FORMATS[suffix], metadata_errors="replace") as source,
            contextlib.ExitStack() as stack,
        ):
            stream: Any = choose_stream(source, limits.frames).stream
            target, copy = _target(stack, out, suffix, stream)
            second = int(1 / stream.time_base)  # files seek by times of decoding, which are earlier
            source.seek(max(clip.start - second, min(clip.start, stream.start_time or 0)), stream=stream)
            packets = list(_between(source.demux(stream), clip))
            if sum(packet.size for packet in packets) != clip.bytes:
                raise MediaError("it is not the video in which its clip was found")
            for packet, time in zip(packets, _decoding_times([p.pts for p in packets]), strict=True):
                # What is shown before time 0 is hidden by the edit list that the MP4 gets.
                packet.pts, packet.dts = packet.pts - clip.begins, time - clip.begins
                packet.stream = copy
                target.mux(packet)
    except av.FFmpegError as error:
        raise MediaError(f"damaged video: {error.strerror}") from None
    return out.getvalue()


def _target(stack: contextlib.ExitStack, out: BinaryIO, suffix: str, stream: Any) -> tuple[Any, Any]:
    """Return a container that writes to `out`, and its stream for the packets of `stream`, header written.

    MediaError if none takes its codec. suffix: of the file that it comes from.
    """
    import av

    tried = [_CONTAINERS[suffix], "mov"]  # as QuickTime's ProRes, which MP4 has no name for
    stated = stream.sample_aspect_ratio
    if stated and stated != (stream.codec_context.sample_aspect_ratio or 1):
        # Copied into Matroska, pixels have the shape that the codec states: PyAV cannot give another.
        tried = [name for name in tried if name != "matroska"]
    codec = stream.codec.canonical_name
    for name in tried if codec != "rawvideo" else ():  # of which not all forms fit
        try:
            out.seek(0)
            target = av.open(out, "w", format=name, options={"fflags": "+bitexact"})
            copy = _copied_stream(target, name, stream)
            target.start_encoding()
        except (av.FFmpegError, ValueError):  # of PyAV, where the container has no name for the codec
            out.truncate(0)
            continue
        return stack.enter_context(target), copy
    raise MediaError(
        f"cannot be cut: its {codec} is not copied into {' or '.join(tried)} files; "
        "ffmpeg -i FILE -c:v ffv1 FILE.mkv makes one that can be, without loss"
    )


def _copied_stream(target: Any, format: str, stream: Any) -> Any:
    """Add a stream for the packets of another one."""
    copy = target.add_stream_from_template(stream, opaque=True)  # a codec may have no encoder here
    if format != "matroska" and stream.sample_aspect_ratio:
        copy.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio
    if format == "mov":  # its tag says which ProRes it is, and so how many bits are decoded
        copy.codec_context.codec_tag = stream.codec_context.codec_tag
    if has_side_alpha(stream):
        copy.metadata["alpha_mode"] = "1"
    return copy


def _between(packets: Any, clip: Clip) -> Iterator[Any]:
    """Yield the packets of the clip; since it starts and stops at boundaries they are adjacent."""
    begun = False
    for packet in packets:
        inside = packet.size and packet.pts is not None and clip.start <= packet.pts < clip.stop
        if begun and not inside:
            return
        if inside:
            begun = True
            yield packet


def _decoding_times(times: list[int]) -> list[int]:
    """Return ascending decoding times, none after its picture is shown: sorted display times, moved earlier.

    Matroska stores times of display only.
    """
    ascending = sorted(times)
    delay = max((a - b for a, b in zip(ascending, times, strict=True)), default=0)
    return [time - delay for time in ascending]


def _packets(video: Video) -> list[Packet]:
    """Return all packets in the order of the file; MediaError if one has no time of display."""
    if any(packet.time is None for packet in video.packets):
        raise MediaError("cannot be cut: its packets have no times")
    edited = video.suffix == "mp4"  # elsewhere what is not shown is no picture, and harmless
    return [
        Packet(time, packet.size, packet.key, packet.shown or not edited)
        for time, packet in zip(video.display_times, video.packets, strict=True)
    ]
