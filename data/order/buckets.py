"""Buckets: the shapes that samples are brought to, which sample goes to which, and how many make a group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from core.config.settings import setting
from core.errors import UserError
from core.progress import counted
from data.media.film.times import frames_at
from data.media.formats import MediaError

NO_BUCKET = 65535  # in an index: the sample fits no bucket, and no stream has it


class Bucket(NamedTuple):
    """A shape in pixels. frames: 1 for images."""

    frames: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Pixels of a sample, of all its frames."""
        return self.frames * self.height * self.width

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """The table of buckets, given or made from the data, and how clips are cut from videos."""

    shapes: tuple[tuple[int, int, int], ...] = setting(
        (), "buckets as [[frames, height, width], ...]; [] derives them from the data", low=1
    )
    resolution: int = setting(256, "derived buckets have about resolution^2 pixels", unit="pixels", low=1)
    multiple: int = setting(32, "sides of derived buckets are multiples of this", unit="pixels", low=1)
    max_aspect: float = setting(
        2.0, "largest aspect ratio of a derived bucket, width / height or height / width", low=1
    )
    min_share: float = setting(
        0.01,
        "leave out a derived bucket with a smaller share of the samples of its number of frames",
        low=0,
        high=1,
    )
    frames: tuple[int, ...] = setting((1, 17), "numbers of frames of derived buckets; 1 is images", low=1)
    fps: float = setting(
        0.0,
        "frame rate of clips (the frame on screen at each time is taken); 0 keeps each video's own",
        unit="1/s",
        low=0,
    )
    stride: int = setting(1, "take every stride-th frame", unit="frames", low=1)
    deinterlace: Literal["off", "auto"] = setting(
        "off",
        "auto: deinterlace interlaced frames, one picture from each (bwdif); off keeps them as they are",
    )


class GroupSizeError(UserError):
    """The number of data-parallel ranks does not divide a group."""


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Sizes of groups: groups of all buckets cost about the same, c + a S + b S^2 a sample.

    For a transformer of width D, b / a = 1 / (6 D): attention against the matrices of its blocks. `longtake
    plan action=measure` fits all three, and the cost of a group, to a device.
    """

    group_size: int = setting(
        256, "samples in a group of the bucket whose samples cost the least", unit="samples", low=1
    )
    group_cost: float = setting(
        0.0, "cost of a group, as an alternative to group_size; 0 is off", unit="tokens", low=0
    )
    cost_fixed: float = setting(0.0, "c in the cost of a sample with S tokens, c + a S + b S^2", low=0)
    cost_linear: float = setting(1.0, "a in the cost of a sample with S tokens", low=0)
    cost_quadratic: float = setting(1.5e-4, "b in the cost of a sample with S tokens", low=0)
    rank_multiple: int = setting(
        8,
        "group sizes are multiples of this; the number of data-parallel ranks must divide every group size",
        unit="samples",
        low=1,
    )

    def __post_init__(self) -> None:
        if self.cost_fixed == self.cost_linear == self.cost_quadratic == 0:
            raise UserError("cost_linear", 0, "more than 0, or cost_fixed or cost_quadratic more than 0")


def sample_cost(tokens: int, config: GroupConfig) -> float:
    """Return the cost c + a S + b S^2 of a sample of S tokens."""
    return config.cost_fixed + config.cost_linear * tokens + config.cost_quadratic * tokens**2


def group_sizes(tokens: Sequence[int], config: GroupConfig) -> list[int]:
    """Return n_b of every bucket, whose samples have `tokens` tokens each: as many as the cost allows,
    rounded to a multiple of `rank_multiple`, and that at least.
    """
    costs = [sample_cost(count, config) for count in tokens]
    budget = config.group_cost or config.group_size * min(costs)
    return [max(1, round(budget / cost / config.rank_multiple)) * config.rank_multiple for cost in costs]


def check_ranks(names: Sequence[str], sizes: Sequence[int], ranks: int, config: GroupConfig) -> None:
    """Raise GroupSizeError, with the equation, unless the number of data-parallel ranks divides every n_b."""
    for name, size in zip(names, sizes, strict=True):
        if size % ranks:
            raise GroupSizeError(
                f"a group of bucket {name} has {size // config.rank_multiple} x rank_multiple = "
                f"{size // config.rank_multiple} x {config.rank_multiple} = {size} samples, and {size} = "
                f"{size // ranks} x {ranks} + {size % ranks}: {ranks} data-parallel ranks do not divide it; "
                f"take a number of ranks that divides it, or a rank_multiple that is a multiple of {ranks}"
            )


def is_image(media: np.ndarray) -> np.ndarray:
    """Return whether each sample has one frame, even in a video file: (samples,) bool of MEDIA_DTYPE.

    All other samples are clips.
    """
    return media["frames"] <= 1


def make_buckets(media: np.ndarray, config: BucketConfig) -> list[Bucket]:
    """Return the configured table, or one made from the data: sides in multiples, about resolution^2 pixels.

    media: (samples,) MEDIA_DTYPE. Only made buckets with enough samples stay.
    """
    if config.shapes:
        return [Bucket(*shape) for shape in dict.fromkeys(config.shapes)]
    made = [
        Bucket(frames, *shape) for frames in dict.fromkeys(config.frames) for shape in _made_shapes(config)
    ]
    counts = np.bincount(assign(media, made, config), minlength=NO_BUCKET + 1)[: len(made)]
    same_frames = np.array([[a.frames == b.frames for b in made] for a in made])
    enough = (counts > 0) & (counts >= config.min_share * (same_frames @ counts))
    kept = [bucket for bucket, is_kept in zip(made, enough, strict=True) if is_kept]
    if not kept:
        raise UserError("frames", list(config.frames), f"numbers of frames {_there(media, config)}")
    return kept


def _there(media: np.ndarray, config: BucketConfig) -> str:
    """Say how many frames the samples offer: `that samples have: 1 (10 images), up to 9 (4 videos)`."""
    available = available_frames(media, config)
    images, videos = available[is_image(media)], available[~is_image(media)]
    parts = [f"1 ({counted(len(images), 'image')})"] if len(images) else []
    if len(videos):
        parts.append(f"2 to {videos.max()} ({counted(len(videos), 'video')})")
    return f"that samples have: {', '.join(parts) or 'there are none'}"


def assign(media: np.ndarray, buckets: Sequence[Bucket], config: BucketConfig) -> np.ndarray:
    """Return the bucket of every sample, (samples,) int64, NO_BUCKET where none fits.

    media: (samples,) MEDIA_DTYPE.
    Images (videos of one frame are images too) go to buckets of one frame; a video to those with the most
    frames that it can fill. Among them the one that crops least (area lost when the picture is scaled to
    cover it, to 1 %), then one that need not enlarge, then the largest.
    """
    kinds, back = np.unique(media, return_inverse=True)
    fits = np.full(len(kinds), NO_BUCKET, np.int64)
    best = np.full((len(kinds), 4), -1.0)
    for number, bucket in enumerate(buckets):
        score = _score(kinds, bucket, available_frames(kinds, config))
        better = _first_is_larger(score, best)
        fits[better], best[better] = number, score[better]
    return fits[back.reshape(-1)]


def available_frames(media: np.ndarray, config: BucketConfig) -> np.ndarray:
    """Return how many frames a clip at the configured rate and stride can have, (samples,) int64.

    1 for an image.
    """
    return (np.maximum(_frames(media, config), 1) - 1) // config.stride + 1


def _frames(media: np.ndarray, config: BucketConfig) -> np.ndarray:
    """Return the numbers of frames at the configured rate, or of the file: (samples,) int64."""
    if not config.fps:
        return media["frames"].astype(np.int64)
    kinds, back = np.unique(media[["duration_num", "duration_den"]], return_inverse=True)
    counts = [frames_at(Fraction(int(num), int(den) or 1), config.fps) for num, den in kinds.tolist()]
    return np.where(is_image(media), 1, np.array(counts, np.int64)[back.reshape(-1)])


def clip_start(media: np.ndarray, count: int, clips: BucketConfig, where: float) -> int:
    """Return the number of the first frame of a clip of `count` frames, in frames at the configured rate.

    MediaError if the sample has too few.
    media: (1,) MEDIA_DTYPE.  where: in [0, 1], which of the possible clips; 0.5 is the one in the middle.
    """
    frames = int(_frames(media, clips)[0])
    surplus = frames - 1 - (count - 1) * clips.stride
    if surplus < 0:
        raise MediaError(f"has {counted(frames, 'frame')}, too few for {count}")
    return min(int(where * (surplus + 1)), surplus)


def _score(media: np.ndarray, bucket: Bucket, available: np.ndarray) -> np.ndarray:
    """Return scores (samples, 4), compared from left to right: frames, area kept, not enlarged, area.

    -1 is no fit.
    """
    height, width = np.maximum(media["height"], 1.0), np.maximum(media["width"], 1.0)
    scale = np.maximum(bucket.height / height, bucket.width / width)
    kept = np.round(bucket.height * bucket.width / (height * width * scale**2), 2)
    fits = np.where(is_image(media), bucket.frames == 1, (bucket.frames > 1) & (bucket.frames <= available))
    columns = [
        np.full(len(media), bucket.frames),
        kept,
        scale <= 1,
        np.full(len(media), bucket.height * bucket.width),
    ]
    return np.where(fits[:, None], np.stack(columns, 1).astype(np.float64), -1.0)


def _first_is_larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return whether each row of `a` follows that of `b` in lexicographic order, (rows,) bool."""
    differs = a != b
    first = differs.argmax(1)
    rows = np.arange(len(a))
    return differs.any(1) & (a[rows, first] > b[rows, first])


def _made_shapes(config: BucketConfig) -> list[tuple[int, int]]:
    """Return (height, width) of all aspect ratios up to max_aspect, in multiples, of about resolution^2
    pixels.
    """
    widest = math.floor(config.resolution * math.sqrt(config.max_aspect) / config.multiple + 1e-9)
    shapes = {(_side(config.resolution, config.multiple),) * 2}
    for step in range(1, widest + 1):
        width = step * config.multiple
        height = _side(config.resolution**2 / width, config.multiple)
        if max(width, height) <= config.max_aspect * min(width, height):
            shapes |= {(height, width), (width, height)}
    return sorted(shapes)


def _side(length: float, multiple: int) -> int:
    return max(1, round(length / multiple)) * multiple
