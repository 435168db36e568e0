"""The fields of `dataset.json` that only one kind of dataset has, by which they are checked when read."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from core.reading.json_scalars import U16, U32, Count, Pattern

Crcs = Annotated[str, Pattern("([0-9a-f]{8})*", "CRC-32 of blocks, 8 hexadecimal digits each")]
_LatentShape = tuple[U16, U32, U32, U32, U32]  # M, C, T, H, W


class Statistics(TypedDict):
    """Mean and standard deviation of each channel of latents, or of each channel in each latent frame."""

    mean: list[float | list[float]]
    std: list[float | list[float]]


class _TextOrigin(TypedDict):
    encoder: str
    tokens: U16
    width: U32


class _PictureOrigin(TypedDict):
    encoder: str
    width: U32


class _MadeFrom(TypedDict):
    """Fields that any reader of a cache's origin needs; they are compared as a whole."""

    encoder: str
    encoder_config: NotRequired[dict[str, Any]]
    normalisation: NotRequired[Statistics | None]
    text: NotRequired[_TextOrigin | None]
    pictures: NotRequired[_PictureOrigin | None]
    dtype: NotRequired[Literal["float16", "float32"]]
    computation: NotRequired[dict[str, Any]]


class RawExtra(TypedDict):
    counts: NotRequired[dict[str, U32]]
    texts: NotRequired[U32]
    captions: NotRequired[Count]


class _SeveralCaptions(TypedDict):
    """Captions of a cache with several a sample: rows, most of a sample, samples with several, names."""

    rows: Count
    most: U16
    several: U32
    names: list[str]


class _CutCaptions(TypedDict):
    """Captions longer than the text encoder takes. limit, longest: tokens."""

    limit: U16
    captions: Count
    cut: Count
    longest: Count


class _Features(TypedDict):
    """Shapes of a picture encoder's features: (F, h, w, E) of one view of a sample, by latent shape."""

    shapes: list[tuple[U32, U32, U32, U32]]


class LatentExtra(TypedDict):
    made_from: _MadeFrom
    statistics: Statistics
    bucket_counts: NotRequired[list[list[U32]]]
    longest_text: NotRequired[U16]
    captions: NotRequired[_SeveralCaptions]
    cut_captions: NotRequired[_CutCaptions]
    features: NotRequired[_Features]
    frame_rates: NotRequired[list[tuple[float, U32]]]


class Raw(TypedDict):
    buckets: list[str]
    extra: RawExtra


class Latent(TypedDict):
    buckets: list[_LatentShape]
    extra: LatentExtra
