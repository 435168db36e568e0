"""The three actions of `inspect` on a dataset, and its contact sheet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from core.config.sections import section
from core.errors import WorkError
from core.files import published
from core.progress import Progress, counted, say
from data.dataset.audit import audit
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.quarantine import read_quarantine
from data.dataset.remote.remote_folder import RemoteFolder, url_of
from data.dataset.schema import INDEX, MANIFEST, QUARANTINE
from data.dataset.summary import as_text, summarise
from data.dataset.tars import read_range
from data.media.formats import MediaError, media_member
from data.media.images import decode_media
from data.media.labels.lettering import UNWRITTEN, legend, written_name
from data.media.pictures import choose_rows, enlarge, enlargement, page, write_png
from data.order.buckets import BucketConfig
from data.reindexing.reindex import reindex
from tools.inspect.telling import tell

if TYPE_CHECKING:
    from tools.inspect.config import Config

Pixels = NDArray[np.uint8]
THUMBNAIL = 96  # pixels, the longer side
DAMAGED = (170, 40, 40)  # a cell without a picture


@dataclass(frozen=True, kw_only=True)
class Views:
    """Settings of `inspect` that say what is drawn of a dataset, by the same names."""

    sheet: str
    rows: int
    columns: int
    sample: int
    pixels: str
    buckets: BucketConfig


def run(config: Config) -> None:
    """Show, verify or reindex the dataset at `config.source`; WorkError if a file is damaged."""
    if config.action == "show":
        result, lines = _show(Dataset(config.source), section(Views, config))
    elif config.action == "verify":
        result, lines = _verify(config.source)
    else:
        result, lines = _reindex(Path(config.source), config.autoencoder, config.quarantine_budget)
    tell(result, lines, config.format, config.json)


def _show(dataset: Dataset, views: Views) -> tuple[dict[str, Any], list[str]]:
    summary = summarise(dataset)
    lines = as_text(summary)
    if views.sheet:
        sheet, damaged = contact_sheet(dataset, views.rows, views.columns)
        write_png(Path(views.sheet), sheet)
        lines += ["", f"contact sheet: {views.sheet}"]
        by_number = legend(np.unique(dataset.index["label"]), dataset.manifest.classes)
        lines += [f"  class {shown}, {UNWRITTEN}" for shown in by_number]
        lines += [f"  sample {row} cannot be shown: {error}" for row, error in damaged]
        summary["sheet"] = {"file": views.sheet, "damaged": [[row, str(error)] for row, error in damaged]}
    if views.sample >= 0:
        from tools.inspect.texts import sample_texts

        summary["sample"], texts = sample_texts(dataset, views.sample)
        lines += ["", *texts]
    if views.pixels:
        from tools.inspect.pixels import write_sample

        lines += ["", write_sample(dataset, views.sample, views.buckets, Path(views.pixels))]
    return summary, lines


def _verify(place: str) -> tuple[dict[str, Any], list[str]]:
    url = url_of(place)
    remote = RemoteFolder(url) if url else None
    folder = remote.folder if remote else Path(place)
    manifest = DatasetManifest.read(folder)
    files = len(manifest.shards) + len(manifest.files)
    with Progress(files, "verify", unit="files") as progress:
        findings = list(
            remote.audit(progress.advance) if remote else audit(folder, manifest, progress.advance)
        )
    result = {
        "folder": url or str(folder),
        "fingerprint": manifest.fingerprint,
        "files": files,
        "damaged": [finding._asdict() for finding in findings],
    }
    lines = [str(finding) for finding in findings]
    return result, lines or [f"{place}: all {files} files are as they were written"]


def _reindex(folder: Path, autoencoder: str, budget: float) -> tuple[dict[str, Any], list[str]]:
    tars = len(published(folder, "*.tar"))
    with Progress(tars, "reindex", unit="tars") as progress:
        manifest, changed = reindex(
            folder,
            advance=progress.advance,
            made_from=_stated(autoencoder),
            budget=budget,
        )
    for name in changed:
        say(f"{name} is not the tar that the old {MANIFEST} named; whatever it holds now is indexed")
    result = {
        "folder": str(folder),
        "fingerprint": manifest.fingerprint,
        "samples": manifest.samples,
        "changed": list(changed),
    }
    made_of = f"{counted(tars, 'tar')}, {counted(manifest.samples, 'sample')}"
    lines = [f"{folder}: {INDEX} and {MANIFEST} made of {made_of}"]
    if manifest.kind == "latent":
        shapes = ", ".join("x".join(map(str, shape[1:])) for shape in manifest.buckets)
        lines.append(f"latents are {shapes} (channels, frames, rows, columns)")
        if aside := len(read_quarantine(folder)):
            lines.append(f"{counted(aside, 'sample')} set aside: {folder / QUARANTINE}")
    return result, lines


def _stated(autoencoder: str) -> dict[str, Any] | None:
    """Return a cache's record of the autoencoder in this folder; None for ""."""
    if not autoencoder:
        return None
    from models.autoencoder.opening import identify_saved

    return identify_saved(Path(autoencoder))


def contact_sheet(
    dataset: Dataset, rows: int = 10, columns: int = 10
) -> tuple[Pixels, list[tuple[int, Exception]]]:
    """Return a page of samples, a row a class, and (row of the index, error) of those that cannot be shown.

    Raw: thumbnails, of videos the middle frame.  Latent: the first three channels of the mean, of clips the
    middle frame, three standard deviations each way.
    """
    labels = np.asarray(dataset.index["label"])
    chosen = choose_rows(labels, rows, columns)
    damaged: list[tuple[int, Exception]] = []
    cells = []
    for _, numbers in chosen:
        cells.append([_cell(dataset, int(row), damaged) for row in numbers])
    names = [written_name(label, dataset.manifest.classes) for label, _ in chosen]
    return page(cells, names), damaged


def _cell(dataset: Dataset, row: int, damaged: list[tuple[int, Exception]]) -> Pixels:
    try:
        return _thumbnail(dataset, row) if dataset.manifest.kind == "raw" else _latent_picture(dataset, row)
    except (MediaError, WorkError) as error:
        damaged.append((row, error))
        return np.full((THUMBNAIL, THUMBNAIL, 3), DAMAGED, np.uint8)


def _thumbnail(dataset: Dataset, row: int) -> Pixels:
    """Return a picture whose longer side is THUMBNAIL, uint8 (H, W, 3)."""
    data = media_member(dataset.read(row))
    width, height, frames = dataset.media[row].tolist()[:3]
    size = [max(1, round(side * THUMBNAIL / max(height, width))) for side in (height, width)]
    return decode_media(data, frames=(frames // 2, 1, 1), size=(size[0], size[1]), colour=dataset.colour)[0]


def _latent_picture(dataset: Dataset, row: int) -> Pixels:
    """Draw the first three channels (one: grey), each within three standard deviations: uint8 (H, W, 3)."""
    entry = dataset.index[row]
    size = int(entry["size"])
    if size == 0:
        raise WorkError("it has no latents (see the quarantine list)")
    with dataset.open_shard(int(entry["shard"])) as file:
        data = read_range(file.fileno(), size, int(entry["offset"]))
    shape = tuple(dataset.manifest.buckets[entry["bucket"]])
    dtype = dataset.manifest.latent_dtype
    if len(data) != size or size != dtype.itemsize * math.prod(shape):
        raise WorkError(f"{dataset.folder / INDEX}: row {row} does not point at latents of shape {shape}")
    values = np.frombuffer(data, dtype).reshape(shape).astype(np.float32)
    statistics = dataset.manifest.extra["statistics"]
    mean, std = (np.array(statistics[name], np.float32).reshape(shape[1], -1) for name in ("mean", "std"))
    picture = values[0, :3, shape[2] // 2]
    scaled = (picture - mean[:3, :1, None]) / np.maximum(std[:3, :1, None], 1e-6)
    channels = scaled if len(scaled) == 3 else np.repeat(scaled[:1], 3, 0)
    pixels = np.clip((np.nan_to_num(channels) / 6 + 0.5) * 255, 0, 255).astype(np.uint8)
    return enlarge(rearrange(pixels, "c h w -> h w c"), enlargement(max(shape[3:]), THUMBNAIL))
