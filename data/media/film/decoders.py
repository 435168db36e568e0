"""Which decoder a stream needs: that which FFmpeg takes, or one that also reads its transparency."""

from __future__ import annotations

from typing import Any

# FFmpeg's own decoders of VP8 and VP9 pass over the second stream of luma that is a film's alpha.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def decoder_of(stream: Any) -> Any:
    """The codec context by which the packets of a video stream are decoded."""
    context = stream.codec_context
    if not has_side_alpha(stream):
        return context
    import av

    alone: Any = av.CodecContext.create(_WITH_ALPHA[context.name], "r")
    alone.width, alone.height = context.width, context.height
    alone.color_range, alone.colorspace = context.color_range, context.colorspace
    return alone


def has_side_alpha(stream: Any) -> bool:
    """Whether alpha lies beside the packets, as WebM has it."""
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    return tags.get("alpha_mode") == "1" and stream.codec_context.name in _WITH_ALPHA
