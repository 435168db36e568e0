"""Measure an autoencoder's reconstructions of real images: PSNR, SSIM, LPIPS and rFID."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.distributed.device_choice import own_device
from core.errors import UserError, below, renamed
from core.files import fingerprint
from core.queue import shared_job
from core.queue.config import QueueConfig
from data.dataset.index import Dataset
from data.media.pictures import enlarge, enlargement, page, write_png
from models.autoencoder.opening import open_autoencoder
from models.extractors import lpips
from models.precision import work_alike
from tools.evaluate.config import ReconstructionConfig
from tools.evaluate.extractors.extractor import Pixels, Seen, distance_scores
from tools.evaluate.extractors.inception_scores import open_extractor
from tools.evaluate.measures import bootstrap_interval
from tools.evaluate.moments import Moments, Reference
from tools.evaluate.real_samples import Shape, nothing_readable, rule_of
from tools.evaluate.reconstruction_units import (
    EACH,
    OF_COPIES,
    OF_ORIGINALS,
    Copier,
    ReconstructionUnits,
)
from tools.evaluate.shared.number_parts import PLACE, REAL, NumberParts
from tools.evaluate.shared.real_side import Real
from tools.evaluate.ssim import SIDE
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
    threads: int


def opened(asked: Comparison) -> Copier:
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
    return Copier(autoencoder, distance, extractor, device)


def share(
    asked: Comparison,
    copier: Copier,
    of: Mapping[str, Any],
    output: Path,
    queue: QueueConfig,
    publish: Callable[[dict[str, Any]], None],
) -> None:
    """Take part in comparing images with their copies; one worker hands the scores to `publish`.

    It also draws some pairs into `output`.  of: hashes of both sides.
    """
    work_alike(asked.threads)
    shape = Shape(1, *asked.reconstruction.size)
    real = Real(Dataset(Path(asked.real)), shape, asked.most_real, asked.seed, 0.0, 1)
    records = _records(asked, copier, of)

    def put_together(parts: NumberParts) -> None:
        scores = _scores_of(copier, real, parts, asked.seed)
        (places,) = parts.whole(REAL, PLACE)
        shown = [pixels for _, pixels in real.placed(places[:SHOWN, 0].astype(np.int64))]
        copies = copier.copies(np.stack(shown))
        _draw(list(zip(shown, copies, strict=True)), output)
        records[rulers.RULER]["count"] = scores["images"]
        publish({**scores, **records})

    made_from = fingerprint({**of, **records[rulers.RULER], "threads": asked.threads})
    units = ReconstructionUnits(output, copier, real, asked.batch, made_from, put_together)
    shared_job.work(units, queue)


def _scores_of(copier: Copier, real: Real, parts: NumberParts, seed: int) -> dict[str, Any]:
    """Return the scores; WorkError where no image was readable."""
    found: dict[str, Any] = {}
    if copier.extractor is not None:
        made, originals = (_seen(*parts.whole(REAL, name)) for name in (OF_COPIES, OF_ORIGINALS))
    (places,) = parts.whole(REAL, PLACE)
    if not len(places):
        raise nothing_readable(real.data, real.shape)
    if copier.extractor is not None:
        found = distance_scores(names.RFID, made, Reference.of(originals.moments), seed)
        found |= copier.extractor.singular(made.moments.count, "images", names.RFID)
    for name in sorted(EACH & copier.widths.keys()):
        each = parts.whole(REAL, name)[0][:, 0]
        found |= {name: float(each.mean()), names.interval(name): bootstrap_interval(each, seed)}
    return found | {"images": len(places)}


def _seen(features: np.ndarray) -> Seen:
    moments = Moments.empty(features.shape[1])
    moments.add(features)
    return Seen(features, moments)


def _records(asked: Comparison, copier: Copier, of: Mapping[str, Any]) -> dict[str, Any]:
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
        **(copier.extractor.ruler if copier.extractor else {}),
    }
    return {
        rulers.OF: dict(of),
        rulers.RULER: measured,
        rulers.SUBJECT: {"autoencoder": copier.autoencoder.identity, "precision": "fp32"},
    }


def _distance(config: ReconstructionConfig, device: torch.device) -> lpips.Lpips | None:
    if not config.lpips_network:
        return None
    network = lpips.load(Path(config.lpips_network), Path(config.lpips_weights))
    return network.to(device)


def _draw(pairs: list[tuple[Pixels, Pixels]], output: Path) -> None:
    """Draw originals above copies."""
    factor = enlargement(max(pairs[0][0].shape[:2]), 160)
    rows = [[enlarge(picture, factor) for picture in row] for row in zip(*pairs, strict=True)]
    write_png(output / PICTURE, page(rows, ["original", "decoded"]))
