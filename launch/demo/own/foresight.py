"""Predict what a demo of a folder would train, before anything is packed, for its dry run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from core.errors import WorkError
from core.progress import counted, duration, say, size
from data.dataset.faults import Fault, attempt
from data.dataset.media_rows import media_table
from data.media.formats import DEFAULT_LIMITS, Media
from data.media.images import check
from data.order.buckets import Bucket, BucketConfig
from data.raw.decoding import pixels_of
from data.raw.ingest import Listing
from data.raw.item import Item
from launch.demo.own.choice import ENCODER_BYTES, STARTS_S, Choice, Folder, shapes_of
from launch.demo.own.settling import SLOW, chosen
from launch.demo.own.step_times import Speed, encoder_step, shares_of, train_step
from launch.demo.own.telling import limits, tell

MOST, LONGEST_S = 256, 20.0  # samples that are looked at, and for how long


@dataclass(frozen=True)
class Looked:
    """Some samples of a folder. media: (items,) MEDIA_DTYPE.  damaged: how many more could not be read.

    seconds: that it took to decode them all, as `shard` does.
    """

    items: list[Item]
    media: np.ndarray
    damaged: int
    seconds: float


def foresee(listing: Listing, minutes: float, ranks: int, *, tiny: bool, text_encoder: str) -> list[str]:
    """Return what would be chosen for a folder, by some of its samples, and the speed of this machine now.

    listing: the samples to train on.  WorkError where none of those looked at can be read.
    """
    say(f"looking at up to {MOST} samples and timing steps, for up to half a minute")
    looked = look_at(listing)
    tried = len(looked.items) + looked.damaged
    packing = 0.0 if tiny else looked.seconds * len(listing.items) / tried
    usable = round(len(listing.items) * len(looked.items) / tried)
    media = np.resize(looked.media, usable)  # each stands for as many others
    folder = Folder(media, listing.texts, len(listing.classes), packing)

    def read(row: int, bucket: Bucket, clips: BucketConfig) -> object:
        item, facts = looked.items[row], looked.media[row : row + 1]
        return pixels_of(item.read(DEFAULT_LIMITS), facts, bucket, clips, DEFAULT_LIMITS)

    if tiny:
        speed = SLOW
    else:
        from launch.demo.own.speed import measure_speed

        speed = measure_speed(ranks, looked.media, read)
    choice = chosen(folder, speed, minutes, tiny=tiny)
    return [
        *([] if tried == len(listing.items) else [_stands_for(looked, tried, len(listing.items))]),
        *tell(folder, choice, speed, minutes, text_encoder=text_encoder),
        *([] if tiny else [_memory(choice, speed), _times(choice, folder, speed, minutes)]),
        *limits(folder, choice, minutes),
        "nothing was packed or trained; a run measures anew, by all samples, when they are packed",
    ]


def look_at(listing: Listing) -> Looked:
    """Decode some samples, drawn at random, as `shard` does with all of them."""
    items, media, damaged, start = [], [], 0, time.perf_counter()
    for place in np.random.default_rng(0).permutation(len(listing.items))[:MOST].tolist():
        item = listing.items[place]
        found = _facts(item)
        if isinstance(found, Fault):
            damaged += 1
        else:
            items.append(item)
            media.append(found)
        if time.perf_counter() - start > LONGEST_S:
            break
    if not items:
        raise WorkError(
            f"none of {counted(damaged, 'sample')} looked at can be read; `longtake shard` says why"
        )
    return Looked(items, media_table(media), damaged, time.perf_counter() - start)


def _facts(item: Item) -> Fault | Media:
    if item.refused is not None:
        return Fault(*item.refused)
    return attempt(lambda: check(item.read(DEFAULT_LIMITS)), "decode", item.name)


def _stands_for(looked: Looked, tried: int, samples: int) -> str:
    aside = f", {looked.damaged} of which cannot be read" if looked.damaged else ""
    return f"looked at {tried} of {samples:,} samples{aside}; they stand for the others in what follows"


def _memory(choice: Choice, speed: Speed) -> str:
    shape = max(shapes_of(choice), key=lambda shape: shape.pixels)
    one = ENCODER_BYTES * shape.pixels
    return (
        f"memory of a rank: about {size(one)} for each sample of {shape} that the autoencoder takes at once, "
        f"of {size(speed.memory)} that it may take; how many it takes is measured when it starts"
    )


def _times(choice: Choice, folder: Folder, speed: Speed, minutes: float) -> str:
    """Say how the minutes are divided among the stages, by the measured rates."""
    shapes = shapes_of(choice)
    weights, sizes = shares_of(shapes), (choice["width"], choice["depth"], choice["heads"])
    encoder = choice["encoder_steps"] * encoder_step(shapes, weights, speed)
    denoiser = choice["train_steps"] * train_step(sizes, shapes, weights, speed)[0]
    rest = 60 * minutes - folder.spent_s - encoder - denoiser - STARTS_S
    rates = [choice["encoder_steps"] / encoder, choice["train_steps"] / denoiser]
    return (
        f"time, estimated: {duration(folder.spent_s)} to pack, {duration(encoder)} for the autoencoder "
        f"({rates[0]:.3g} steps a second), {duration(denoiser)} for the denoiser ({rates[1]:.3g}), "
        f"{duration(STARTS_S)} to start processes, and of {minutes:g} minutes {duration(max(0.0, rest))} to "
        "encode, sample and score"
    )
