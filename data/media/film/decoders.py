"""Choose the decoder of a stream: FFmpeg's choice, or one that also reads its transparency."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data.media.formats import MediaError

# FFmpeg's own decoders of VP8 and VP9 pass over the second stream of luma that is a film's alpha.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def decoder_of(stream: Any) -> Any:
    """Return the codec context that decodes the packets of a video stream."""
    context = stream.codec_context
    if not has_side_alpha(stream):
        return context
    import av

    alone: Any = av.CodecContext.create(_WITH_ALPHA[context.name], "r")
    alone.width, alone.height = context.width, context.height
    alone.color_range, alone.colorspace = context.color_range, context.colorspace
    return alone


def without_profiles(packets: Iterator[Any]) -> Iterator[Any]:
    """Yield packets; MediaError at one that is a PNG with an ICC profile.

    PyAV 18.1 frees its name twice once a frame's side data are looked at, which ends the process.
    """
    for packet in packets:
        if packet.stream.name == "png" and b"iCCP" in bytes(packet).partition(b"IDAT")[0]:
            raise MediaError(
                "is a film of PNG pictures with an ICC profile, which is not read: "
                "ffmpeg -i FILE -c:v ffv1 FILE.mkv makes one without"
            )
        yield packet


def has_side_alpha(stream: Any) -> bool:
    """Return whether alpha is stored beside the packets, as in WebM."""
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    return tags.get("alpha_mode") == "1" and stream.codec_context.name in _WITH_ALPHA
