"""The files of previews: a picture or film a sample and one picture of all, named by step and average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.files import atomic_file, read_bytes
from core.run.folder import PREVIEWS
from data.media.pictures import contact_sheet, image_grid, write_png
from tools.runs.sample_files import decode
from tools.sample.files.kinds import KINDS
from tools.sample.requests.schedule import Schedule, Size

SHOWN_LETTERS = 24  # of a prompt, beside its pictures


@dataclass(frozen=True)
class PreviewFiles:
    """The files in `previews/` of a run.  sizes: in pixels, by form.  classes: names by label."""

    run: Path
    schedule: Schedule
    sizes: Sequence[Size]
    classes: Sequence[str]

    def name(self, step: int, average: str, number: int) -> str:
        """Return the path of a sample's file below the run."""
        kind = "png" if self._size(number).frames == 1 else "h264"
        return f"{PREVIEWS}/step-{step:08d}-{average}-{number:03d}{KINDS[kind].suffix}"

    def write(self, step: int, average: str, number: int, pixels: NDArray[np.uint8]) -> str:
        """Publish a sample, and return its path below the run."""
        name = self.name(step, average, number)
        form = self.schedule.forms[self.schedule.form[number]]
        kind = "png" if form.size.frames == 1 else "h264"
        with atomic_file(self.run / name) as file:
            file.write(KINDS[kind].encode(pixels, form.fps, None))
        return name

    def draw(self, step: int, average: str) -> str:
        """Publish one picture of all samples of the most frequent form, from their files; return its path."""
        form = int(np.bincount(self.schedule.form).argmax())
        chosen, size = np.flatnonzero(self.schedule.form == form), self.sizes[form]
        found = [read_bytes(self.run / self.name(step, average, int(number))) for number in chosen]
        pixels = np.stack([decode(data, size.frames, size.height, size.width) for data in found])
        labels, names = self.schedule.label[chosen], tuple(self.classes)
        if self.schedule.texts:
            labels = self.schedule.text[chosen]
            names = tuple(text[:SHOWN_LETTERS] for text in self.schedule.texts)
        draw = image_grid if size.frames == 1 else contact_sheet
        name = f"{PREVIEWS}/step-{step:08d}-{average}.png"
        write_png(self.run / name, draw(pixels, labels, names))
        return name

    def _size(self, number: int) -> Size:
        return self.sizes[self.schedule.form[number]]
