"""Choose once what a demo of a folder trains, say it, and keep it for when the demo is continued."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np

from core.files import write_json
from core.progress import say
from core.reading import json_files
from data.dataset.index import Dataset
from data.media.formats import DEFAULT_LIMITS
from data.order.buckets import NO_BUCKET, BucketConfig, assign, is_image
from data.raw.decoding import read_pixels
from launch.demo.own.choice import Choice, Folder, choose, shapes_of
from launch.demo.own.kept import CHOICE
from launch.demo.own.step_times import Speed, shares_of, train_step
from launch.demo.own.telling import limits, tell
from launch.demo.stage_records import read_record

SLOW = Speed(
    1.0, 1.0, 1.0, float("inf"), 1, "none: scale=tiny"
)  # of a demo that only goes through the stages
TINY_STEPS, TINY_SAMPLES = 20, 20


class Settled(TypedDict):
    """The content of `choice.json`.

    source: fingerprint of the dataset that it was chosen for.  said: what was chosen and becomes of the
    samples.  limits: what such a budget cannot give.
    """

    source: str
    minutes: float
    choice: Choice
    said: list[str]
    limits: list[str]


def settle(output: Path, minutes: float, ranks: int, *, tiny: bool, text_encoder: str) -> Choice:
    """Return what the demo in `output` trains: what was chosen for this dataset, or is now."""
    dataset, path = Dataset(output / "shards"), output / CHOICE
    if path.is_file():
        before = json_files.read(path, Settled)
        if (before["source"], before["minutes"]) == (dataset.manifest.fingerprint, minutes):
            return before["choice"]
    from launch.demo.own.speed import measure_speed

    manifest = dataset.manifest
    spent = sum(stage["seconds"] for stage in read_record(output, digits=False).stages.values())
    texts = int(manifest.extra.get("texts") or 0)
    folder = Folder(np.asarray(dataset.media), texts, len(manifest.classes), spent)
    read = partial(read_pixels, dataset, limits=DEFAULT_LIMITS)
    speed = SLOW if tiny else measure_speed(ranks, folder.media, read)
    choice = chosen(folder, speed, minutes, tiny=tiny)
    said = tell(folder, choice, speed, minutes, text_encoder=text_encoder)
    settled = Settled(
        source=manifest.fingerprint,
        minutes=minutes,
        choice=choice,
        said=said,
        limits=limits(folder, choice, minutes),
    )
    write_json(path, settled)
    for line in [*said, *settled["limits"]]:
        say(line)
    return choice


def chosen(folder: Folder, speed: Speed, minutes: float, *, tiny: bool) -> Choice:
    """Return what is trained; of a tiny demo only the shapes follow from the folder."""
    choice = choose(folder, speed, minutes)
    if tiny:
        choice["encoder_steps"] = choice["train_steps"] = TINY_STEPS
        sizes = choice["width"], choice["depth"], choice["heads"] = 32, 2, 2
        shapes = shapes_of(choice)
        taken = train_step(sizes, shapes, shares_of(shapes), speed)[1]  # samples
        choice["passes"] = round(TINY_STEPS * taken / max(1, len(folder.media)), 1)
        choice["images"], choice["clips"] = (
            min(n, TINY_SAMPLES) for n in (choice["images"], choice["clips"])
        )
    return choice


def read_settled(output: Path) -> Settled | None:
    """Return what was chosen for the demo in `output`; None before that, or for the built-in digits."""
    path = output / CHOICE
    return json_files.read(path, Settled) if path.is_file() else None


def most_common(dataset: Dataset, choice: Choice, *, clip: bool) -> tuple[int, int, int]:
    """Return the shape of images, or of clips, that most samples are brought to."""
    shapes = shapes_of(choice)
    column = assign(np.asarray(dataset.media), shapes, BucketConfig(fps=choice["fps"]))
    counts = np.bincount(column, minlength=NO_BUCKET + 1)
    of_kind = [number for number, shape in enumerate(shapes) if (shape.frames > 1) == clip]
    return shapes[max(of_kind, key=lambda number: counts[number])]


def frame_rate(dataset: Dataset) -> float:
    """Return the median frame rate of the videos of a dataset, at least 1."""
    media = np.asarray(dataset.media)
    videos = media[~is_image(media)]
    return max(1.0, round(float(np.median(videos["rate_num"] / np.maximum(videos["rate_den"], 1))), 3))
