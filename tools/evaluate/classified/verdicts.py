"""The classifier's outputs for generated and real samples, computed by any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from core.checkpoint.format import DamagedCheckpoint
from core.errors import WorkError
from core.files import sha256_file
from models.autoencoder.interface import AnyAutoencoder
from models.autoencoder.opening import open_autoencoder
from tools.evaluate import copies, measures
from tools.evaluate.classified import looks
from tools.evaluate.classified.real_looks import (
    BATCH,
    CLIPS,
    HELDOUT_IMAGES,
    IMAGES,
    JUDGE,
    LOOKS,
    REAL_IMAGES,
    UNSEEN,
    RealLooks,
    Rows,
    Split,
)
from tools.evaluate.decoded import reconstruction_psnrs
from tools.evaluate.judge import FEATURES, Judge
from tools.evaluate.real_samples import batched
from tools.evaluate.shared.number_parts import PLACE, NumberParts, Numbers, cut, side_of
from tools.evaluate.shared.number_units import FOLDER, NumberUnits
from tools.runs.samples import Samples

MADE_IMAGES, MADE_CLIPS = "madeimages", "madeclips"  # sides, beside those of real samples
AGREEING, NEAREST, ALIKE, PSNR = "agreeing", "nearest", "alike", "psnr"
OF_IMAGES = {"features": FEATURES, AGREEING: 1, NEAREST: 1, ALIKE: 1, PSNR: 1}
OF_CLIPS = {AGREEING: 1, looks.FIRST: 1, looks.SECOND: 1}
WIDE = looks.WIDE | {NEAREST, PSNR}


class Verdicts(NumberUnits):
    """Samples of both sides, cut into units.

    made: generated ones by side.  real: what was kept of the others.  autoencoder: folder of the one whose
    reconstructions of held-out images are measured, "" for none.
    """

    def __init__(
        self,
        output: Path,
        made: Mapping[str, Samples],
        real: RealLooks,
        autoencoder: str,
        made_from: str,
        put_together: Callable[[Verdicts], None],
    ) -> None:
        self.made, self.real, self._autoencoder = made, real, autoencoder
        units = dict(real.parts.units)
        for name, samples in made.items():
            units |= cut([(name, samples.count)], IMAGES if samples.frames == 1 else CLIPS)
        clips = {name: real.sides[name].shape.is_clip for name in real.sides}
        clips |= {name: samples.frames > 1 for name, samples in made.items()}
        widths = {name: OF_CLIPS if is_clip else OF_IMAGES for name, is_clip in clips.items()}
        parts = NumberParts(output / FOLDER, made_from, units, widths, WIDE)
        super().__init__(output, "judge samples", parts, lambda _: put_together(self))
        self.folders = (FOLDER, LOOKS)

    def clear(self) -> None:
        """Remove the classifier too."""
        super().clear()
        (self.output / JUDGE).unlink(missing_ok=True)

    @cached_property
    def judge(self) -> Judge:
        """The classifier; WorkError where its file cannot be read, which then goes."""
        try:
            return Judge.load(self.output / JUDGE)
        except DamagedCheckpoint as error:
            (self.output / JUDGE).unlink(missing_ok=True)
            raise WorkError(f"{error}; the same command trains the classifier again") from None

    @property
    def judge_sha256(self) -> str:
        """The hash of the classifier."""
        return sha256_file(self.output / JUDGE)

    @cached_property
    def images(self) -> Split:
        """The real images, with their thumbnails."""
        return self.real.split(REAL_IMAGES, looks.THUMBNAILS)

    @cached_property
    def autoencoder(self) -> AnyAutoencoder:
        return open_autoencoder(Path(self._autoencoder))

    def numbers(self, unit: str) -> Iterator[Numbers]:
        """Yield what is said of the samples of a unit."""
        side, rows = side_of(unit), self.parts.units[unit]
        if side in self.made:
            yield from self._of_made(self.made[side], rows)
            return
        part = self.real.parts.require(unit)
        places = part[PLACE][:, 0].astype(np.int64) + rows.start
        labels = self.real.sides[side].labels(places)
        if looks.INPUTS not in part:
            frames = looks.frames_in(part[looks.MIDDLE])
            changes = {name: part[name] for name in (looks.FIRST, looks.SECOND)}
            yield {AGREEING: self.judge.agreeing(frames, labels), **changes}
            return
        is_heldout = np.isin(places, self.images.heldout.places) & self._has_heldout(side)
        frames = looks.frames_in(part[looks.INPUTS])
        thumbnails = np.where(is_heldout[:, None], part[looks.THUMBNAILS], np.nan)
        yield self._of_images(frames, labels, thumbnails) | {PSNR: self._psnrs(side, places, is_heldout)}

    def whole(self, side: str, name: str) -> np.ndarray:
        """Return what is said of all samples of a side, by name."""
        (found,) = self.parts.whole(side, name)
        return found if found.shape[1] > 1 else found[:, 0].astype(np.float64)

    def of_split(self, name: str, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Return what is said of real samples of a kind, those that are learned from and those held out."""
        split, found = self.real.split(name), list[np.ndarray]()
        unseen = UNSEEN[name] if UNSEEN[name] in self.real.sides else name
        for some, side in ((split.train, name), (split.heldout, unseen)):
            rows = np.searchsorted(self.real.side(side).places, some.places)
            found.append(self.whole(side, what)[rows].astype(np.float64))
        return found[0], found[1]

    def _has_heldout(self, side: str) -> bool:
        """Return whether held-out images are of this side."""
        return side == (HELDOUT_IMAGES if HELDOUT_IMAGES in self.real.sides else REAL_IMAGES)

    def _of_made(self, samples: Samples, rows: range) -> Iterator[Numbers]:
        for start in range(rows.start, rows.stop, BATCH):
            some = range(start, min(start + BATCH, rows.stop))
            pixels, labels = samples.some(some).copy(), samples.labels[some.start : some.stop]
            if samples.frames > 1:
                first, second = measures.changes(pixels)
                agreeing = self.judge.agreeing(looks.middle_of(pixels), labels)
                yield {AGREEING: agreeing, looks.FIRST: first, looks.SECOND: second}
                continue
            look = looks.of_images(pixels)
            said = self._of_images(looks.frames_in(look[looks.INPUTS]), labels, look[looks.THUMBNAILS])
            yield said | {PSNR: np.full(len(pixels), np.nan)}

    def _of_images(self, frames: Tensor, labels: Rows, thumbnails: np.ndarray) -> dict[str, Any]:
        """Return what is said of images.  thumbnails: nan for those whose nearest one is not asked for."""
        training = self.images.train.numbers[looks.THUMBNAILS]
        nearest, alike = (np.full(len(thumbnails), np.nan) for _ in range(2))
        asked = ~np.isnan(thumbnails[:, 0])
        if len(training) and asked.any():
            found = copies.nearest(thumbnails[asked], training)
            nearest[asked], alike[asked] = found.number, found.correlation
        said = {"features": self.judge.features(frames), AGREEING: self.judge.agreeing(frames, labels)}
        return {**said, NEAREST: nearest, ALIKE: alike}

    def _psnrs(self, side: str, places: Rows, is_heldout: np.ndarray) -> np.ndarray:
        """Return the PSNR of each image that is held out, nan for others."""
        found = np.full(len(places), np.nan)
        if self._autoencoder and is_heldout.any():
            pixels = (each for _, each in self.real.sides[side].placed(places[is_heldout]))
            each = [reconstruction_psnrs(self.autoencoder, some) for some in batched(pixels, BATCH)]
            found[is_heldout] = np.concatenate(each)
        return found
