"""What an autoencoder loses of real images: PSNR, SSIM, LPIPS, and rFID, the FID of copies to originals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.distributed.device_choice import own_device
from core.errors import UserError, below, renamed
from data.dataset.index import Dataset
from data.media.images import from_tensor, to_tensor
from data.media.pictures import enlarge, enlargement, page, write_png
from models.autoencoder.interface import AnyAutoencoder
from models.autoencoder.opening import open_autoencoder
from models.autoencoder.psnr import psnr
from models.extractors import lpips
from tools.evaluate.config import ReconstructionConfig
from tools.evaluate.extractors.extractor import Pixels, distance_scores
from tools.evaluate.extractors.inception_scores import InceptionScores, open_extractor
from tools.evaluate.measures import bootstrap_interval
from tools.evaluate.moments import Reference
from tools.evaluate.real_samples import Shape, batched, real_pixels, rule_of
from tools.evaluate.ssim import SIDE, ssim
from tools.runs import rulers
from tools.runs import score_names as names

PICTURE = "reconstructions.png"
SHOWN = 8  # pairs in the picture
FORMULAS = 1  # version of PSNR, SSIM and LPIPS, in rulers


@dataclass(frozen=True)
class Comparison:
    """Settings of `evaluate` by the same names.

    source: folder of the autoencoder.  extractor_weights: file of FID's network, "" without rFID.
    """

    source: str
    real: str
    reconstruction: ReconstructionConfig
    extractor_weights: str
    most_real: int
    seed: int
    batch: int
    device: str


@dataclass
class _Seen:
    """The measures of each image, and what is drawn of the first ones."""

    values: dict[str, list[float]] = field(default_factory=dict)
    shown: list[tuple[Pixels, Pixels]] = field(default_factory=list)

    def add(self, name: str, values: list[float]) -> None:
        """Append the measures of a batch."""
        self.values.setdefault(name, []).extend(values)


@dataclass(frozen=True)
class Opened:
    """The networks of a comparison, on a device.  distance, extractor: None without LPIPS, without rFID."""

    autoencoder: AnyAutoencoder
    distance: lpips.Lpips | None
    extractor: InceptionScores | None
    device: torch.device


def opened(asked: Comparison) -> Opened:
    """Open what is compared with; UserError where a file, or the size, does not fit."""
    device, size = own_device(asked.device), asked.reconstruction.size
    with renamed({"autoencoder": "source"}):
        autoencoder = open_autoencoder(Path(asked.source)).to(device)
    if min(size) < SIDE:
        raise UserError("reconstruction.size", size, f"at least {SIDE} pixels a side")
    with below("reconstruction"):
        with renamed(dict.fromkeys(("height", "width"), "size")):
            autoencoder.latent_shape((1, *size))  # refuses a size that does not fit
        distance = _distance(asked.reconstruction, device)
    extractor = open_extractor(Path(asked.extractor_weights), device) if asked.extractor_weights else None
    return Opened(autoencoder, distance, extractor, device)


def scores_of(asked: Comparison, opened: Opened, of: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Return the content of scores.json, and draw some pairs into `output`.  of: hashes of both sides."""
    seen, extractor = _Seen(), opened.extractor
    copies = _copies(asked, opened, seen)
    found: dict[str, Any] = {}
    if extractor is None:
        for _ in copies:
            pass
    else:
        made = extractor.see(copies)
        # Read twice, so that memory does not grow with their number.
        real = extractor.see(_originals(asked), is_real=True)
        found = distance_scores(names.RFID, made, Reference.of(real.moments), asked.seed)
        found |= extractor.singular(made.moments.count, "images", names.RFID)
    for name, values in seen.values.items():
        each = np.array(values)
        found |= {name: float(each.mean()), names.interval(name): bootstrap_interval(each, asked.seed)}
    found["images"] = len(seen.values[names.PSNR])
    _draw(seen.shown, output)
    return {**found, **_records(asked, opened.autoencoder, of, extractor.ruler if extractor else {})}


def _records(
    asked: Comparison, autoencoder: AnyAutoencoder, of: Mapping[str, Any], ruler: Mapping[str, Any]
) -> dict[str, Any]:
    measured = {
        "measure": "reconstruction",
        "reconstruction_formulas": FORMULAS,
        "size": list(asked.reconstruction.size),
        "real": of["real"],
        **rule_of(Dataset(Path(asked.real))),
        "most_real": asked.most_real,
        "seed": asked.seed,
        **{
            f"{name}_sha256": of[f"reconstruction.{name}"]
            for name, file in asked.reconstruction.files().items()
            if file
        },
        **ruler,
    }
    return {
        rulers.OF: dict(of),
        rulers.RULER: measured,
        rulers.SUBJECT: {"autoencoder": autoencoder.identity},
    }


def _distance(config: ReconstructionConfig, device: torch.device) -> lpips.Lpips | None:
    if not config.lpips_network:
        return None
    network = lpips.load(Path(config.lpips_network), Path(config.lpips_weights))
    return network.to(device)


def _originals(asked: Comparison) -> Iterator[Pixels]:
    shape = Shape(1, *asked.reconstruction.size)
    pixels = real_pixels(
        Dataset(Path(asked.real)), shape, asked.most_real, seed=asked.seed, fps=0.0, stride=1
    )
    return batched(pixels, asked.batch)


def _copies(asked: Comparison, opened: Opened, seen: _Seen) -> Iterator[Pixels]:
    """Yield copies, (n, H, W, 3), and note the measures of each and its original."""
    for originals in _originals(asked):
        with torch.no_grad():
            x = to_tensor(originals[:, None]).to(opened.device)
            copies = from_tensor(opened.autoencoder.decode(opened.autoencoder.encode(x)[:, 0]))[:, 0]
            if opened.distance is not None:
                y = to_tensor(copies[:, None]).to(opened.device)
                seen.add(names.LPIPS, opened.distance(x[:, :, 0], y[:, :, 0]).tolist())
        seen.add(names.PSNR, [psnr(a[None], b[None]) for a, b in zip(originals, copies, strict=True)])
        seen.add(names.SSIM, ssim(torch.from_numpy(originals), torch.from_numpy(copies)).tolist())
        missing = SHOWN - len(seen.shown)
        seen.shown += list(zip(originals[:missing], copies[:missing], strict=True))
        yield copies


def _draw(pairs: list[tuple[Pixels, Pixels]], output: Path) -> None:
    """Draw originals above copies."""
    factor = enlargement(max(pairs[0][0].shape[:2]), 160)
    rows = [[enlarge(picture, factor) for picture in row] for row in zip(*pairs, strict=True)]
    write_png(output / PICTURE, page(rows, ["original", "decoded"]))
