"""Say how much of the videos clips use, and which frame rates they mix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from core.progress import counted
from data.order.buckets import Bucket, BucketConfig, is_image

MOST_RATES = 5  # in one line


def usage_lines(
    media: np.ndarray,
    column: np.ndarray,
    buckets: Sequence[Bucket],
    config: BucketConfig,
    *,
    drawn: bool = False,
) -> Iterator[str]:
    """Yield lines for each bucket of clips: seconds used and not, and the rates if there are several.

    media: (samples,) MEDIA_DTYPE.  column: (samples,) the bucket of each.  One clip of each video is used
    in a pass: the one in the middle, or, if `drawn`, any.
    """
    for number, bucket in enumerate(buckets):
        here = media[(column == number) & ~is_image(media)]
        if not len(here):
            continue
        whole = here["duration_num"] / np.maximum(here["duration_den"], 1)
        rate = config.fps or here["rate_num"] / np.maximum(here["rate_den"], 1)
        used = np.minimum(((bucket.frames - 1) * config.stride + 1) / np.maximum(rate, 1e-9), whole)
        left = float(whole.sum() - used.sum())
        if drawn:
            yield (
                f"{bucket}: {bucket.frames} frames of each video, drawn anew each time, {used.sum():.1f} of "
                f"{whole.sum():.1f} s in a pass"
            )
        else:
            line = (
                f"{bucket}: {bucket.frames} frames from the middle of each video, {used.sum():.1f} s used "
                f"and {left:.1f} s not"
            )
            # A remainder shorter than a clip could not be used by cutting.
            cuts = "; clips.length_s of `shard` cuts long videos into more" if left > used.mean() else ""
            yield line + cuts
        if not config.fps:
            yield from _mixed(bucket, here)


def _mixed(bucket: Bucket, media: np.ndarray) -> Iterator[str]:
    """Yield a line if the videos of a bucket have several frame rates."""
    pairs, counts = np.unique(media[["rate_num", "rate_den"]], return_counts=True)
    if len(pairs) < 2:
        return
    order = np.argsort(-counts, kind="stable")
    shown = [
        f"{counts[place]} x {Fraction(int(pairs[place]['rate_num']), int(pairs[place]['rate_den']) or 1)}"
        for place in order[:MOST_RATES].tolist()
    ]
    more = f" and {counted(len(pairs) - MOST_RATES, 'other')}" if len(pairs) > MOST_RATES else ""
    common = pairs[order[0]]
    fps = int(common["rate_num"]) / max(1, int(common["rate_den"]))
    yield (
        f"{bucket}: mixes frame rates ({', '.join(shown)}{more}), so a frame lasts differently long; "
        f"buckets.fps={fps:g} brings them to one"
    )
