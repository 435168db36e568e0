"""The captions of a folder: all, and those that its demo generates from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.files import write_text
from data.dataset.index import Dataset
from data.latent.texts import captions_of_row


def all_captions(dataset: Dataset) -> Iterator[str]:
    """Yield every caption of every sample."""
    for row in range(len(dataset)):
        captions, _ = captions_of_row(dataset, row)
        yield from (caption.text for caption in captions)


def write_prompts(dataset: Dataset, path: Path, most: int) -> Path:
    """Write the first caption of `most` samples at most, each text once, a line each; return the path."""
    found: dict[str, None] = {}
    for row in range(len(dataset)):
        captions, _ = captions_of_row(dataset, row)
        if captions and (line := " ".join(captions[0].text.split())):
            found[line] = None
        if len(found) == most:
            break
    write_text(path, "".join(f"{line}\n" for line in found))
    return path
