"""Small raw datasets for tests: pictures of two sizes and clips of two lengths."""

from __future__ import annotations

from pathlib import Path

from data.dataset.index import Dataset
from tests.data.samples import clip_bytes, image_bytes, picture
from tools.shard.job import Config, run


def make_raw(folder: Path, images: int = 10, clips: int = 4, *, samples_per_shard: int = 4) -> Dataset:
    """Make pictures 16x16 and 24x16 and clips of 9 and 6 frames, in two classes, shuffled over shards."""
    for name in ("a", "b"):
        (folder / "files" / name).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        pixels = picture(16, 16 if number % 2 else 24, seed=number)
        (folder / "files" / "ab"[number % 2] / f"{number}.png").write_bytes(image_bytes(pixels))
    for number in range(clips):
        data = clip_bytes(folder, frames=9 if number % 2 else 6, fps=8.0 + number)
        (folder / "files" / "ab"[number % 2] / f"clip{number}.mp4").write_bytes(data)
    run(Config(source=str(folder / "files"), output=str(folder / "raw"), samples_per_shard=samples_per_shard))
    return Dataset(folder / "raw")


def damage(dataset: Dataset, row: int) -> None:
    """Overwrite the inside of a sample's picture or clip in its shard."""
    entry = dataset.index[row]
    content = next(data for suffix, data in dataset.read(row).items() if suffix != "json")
    with open(dataset.shard_path(int(entry["shard"])), "r+b") as file:
        start = file.read().index(content, int(entry["offset"]))
        file.seek(start + 24)
        file.write(b"\xff" * 64)
