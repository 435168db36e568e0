"""A raw dataset or a cache of latents: its summary and a contact sheet; a cache in the making."""

from __future__ import annotations

import functools

from core.errors import WorkError
from core.files import published
from core.progress import counted, size
from data.dataset.index import Dataset
from data.dataset.schema import MANIFEST
from data.dataset.summary import as_text, summarise
from data.media.formats import MediaError
from data.media.images import encode_png
from tools.inspect.dataset import contact_sheet
from tools.report.output import Output, Picture
from tools.report.readers.trying import tried

ROWS, COLUMNS = 8, 12  # of the contact sheet


def read(output: Output, *, sheet: bool = True) -> None:
    """Fill in what the dataset's files say.  sheet: whether to draw samples."""
    if not (output.folder / MANIFEST).is_file():
        _unfinished(output)
        return
    output.state = "complete"
    dataset = tried(output, str(output.folder), lambda: Dataset(str(output.folder)), None)
    if dataset is None:
        output.state = "damaged"
        return
    output.kind = "raw dataset" if dataset.manifest.kind == "raw" else "latent cache"
    output.summary = tried(output, "summary", lambda: summarise(dataset), {})
    if output.summary:
        output.lines = as_text(output.summary)
        totals = output.summary["totals"]
        output.facts |= {
            "samples": f"{totals['samples']:,}",
            "bytes": size(totals["bytes"]),
            "shards": f"{totals['shards']:,}",
            "classes": str(len(dataset.manifest.classes)),
            "set aside": f"{output.summary['quarantine']['entries']:,}",
            "fingerprint": dataset.manifest.fingerprint[:16],
        }
    if sheet and dataset.manifest.samples:
        tried(output, "contact sheet", functools.partial(_add_sheet, output, dataset), None)


def _add_sheet(output: Output, dataset: Dataset) -> None:
    try:
        pixels, damaged = contact_sheet(dataset, ROWS, COLUMNS)
    except (MediaError, KeyError) as error:
        raise WorkError(f"cannot be drawn: {error}") from error
    how = "" if output.kind == "raw dataset" else ": the first three channels of their means, as colours"
    output.pictures.append(Picture("contact sheet", "image/png", encode_png(pixels), f"samples{how}"))
    output.troubles += [f"sample {row} cannot be shown: {error}" for row, error in damaged]


def _unfinished(output: Output) -> None:
    receipts = [path for path in published(output.folder / ".receipts", "*.json") if path.stem.isdigit()]
    output.state, output.running = "not finished", True
    output.facts["shards finished"] = str(len(receipts))
    output.troubles.append(
        f"{MANIFEST}: missing, so this is not complete; {counted(len(receipts), 'shard')} are"
    )
