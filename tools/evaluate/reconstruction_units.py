"""The units of a reconstruction: real images, which any number of workers encode, decode and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.media.images import from_tensor, to_tensor
from models.autoencoder.interface import AnyAutoencoder
from models.autoencoder.psnr import psnr
from models.extractors import lpips
from tools.evaluate.extractors.extractor import FEATURES, Pixels
from tools.evaluate.extractors.inception_scores import InceptionScores
from tools.evaluate.real_samples import batched
from tools.evaluate.shared.number_parts import PLACE, REAL, NumberParts, Numbers, cut
from tools.evaluate.shared.number_units import FOLDER, NumberUnits
from tools.evaluate.shared.real_side import Real
from tools.evaluate.ssim import ssim
from tools.runs import score_names as names

IMAGES = 256  # of a unit
OF_COPIES, OF_ORIGINALS = "copies", "originals"  # features
EACH = frozenset((names.PSNR, names.SSIM, names.LPIPS))  # measures of one image


@dataclass(frozen=True)
class Copier:
    """An autoencoder on a device, and what its copies are compared with originals by.

    distance, extractor: None without LPIPS, without rFID.
    """

    autoencoder: AnyAutoencoder
    distance: lpips.Lpips | None
    extractor: InceptionScores | None
    device: torch.device

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of an image, by name."""
        found = {PLACE: 1, names.PSNR: 1, names.SSIM: 1}
        if self.distance is not None:
            found[names.LPIPS] = 1
        if self.extractor is not None:
            found |= dict.fromkeys((OF_COPIES, OF_ORIGINALS), self.extractor.widths[FEATURES])
        return found

    @torch.no_grad()
    def copies(self, originals: Pixels) -> Pixels:
        """Return images (n, H, W, 3) encoded, by the posterior's mean, and decoded."""
        x = to_tensor(originals[:, None]).to(self.device)
        return from_tensor(self.autoencoder.decode(self.autoencoder.encode(x)[:, 0]))[:, 0]

    def compared(self, originals: Pixels) -> dict[str, np.ndarray]:
        """Return the numbers of images (n, H, W, 3), but their places."""
        copies = self.copies(originals)
        each = [psnr(a[None], b[None]) for a, b in zip(originals, copies, strict=True)]
        found = {names.PSNR: np.array(each)}
        found[names.SSIM] = ssim(torch.from_numpy(originals), torch.from_numpy(copies)).numpy()
        if self.distance is not None:
            x, y = (to_tensor(side[:, None])[:, :, 0].to(self.device) for side in (originals, copies))
            with torch.no_grad():
                found[names.LPIPS] = self.distance(x, y).cpu().numpy()
        if self.extractor is not None:
            found[OF_COPIES] = self.extractor.numbers(copies)[FEATURES]
            found[OF_ORIGINALS] = self.extractor.numbers(originals)[FEATURES]
        return found


class ReconstructionUnits(NumberUnits):
    """Real images, cut into units.  batch: that are copied at once."""

    def __init__(
        self,
        output: Path,
        copier: Copier,
        real: Real,
        batch: int,
        made_from: str,
        put_together: Callable[[NumberParts], None],
    ) -> None:
        self._copier, self._real, self._batch = copier, real, batch
        units = cut([(REAL, len(real.rows))], IMAGES)
        parts = NumberParts(output / FOLDER, made_from, units, {REAL: copier.widths}, EACH)
        super().__init__(output, "copy images", parts, put_together)

    def numbers(self, unit: str) -> Iterator[Numbers]:
        """Copy and compare the images of a unit."""
        rows, places = self.parts.units[unit], list[int]()

        def noted() -> Iterator[Pixels]:
            for place, pixels in self._real.placed(rows):
                places.append(place - rows.start)
                yield pixels

        for originals in batched(noted(), self._batch):
            yield {PLACE: np.array(places), **self._copier.compared(originals)}
            places.clear()
