"""Make the index of a latent cache, and the files beside it, again from its tars alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset.manifest import ShardRecord
from data.latent.assembly import text_facts
from data.latent.caption_table import CaptionTable, captions_of, with_several
from data.latent.checksums import Ranges, feature_ranges, range_crcs, still_ranges
from data.latent.pack_reading import scan_part
from data.latent.pack_rows import flip_rows, index_rows, text_rows
from data.latent.packs import Place, Shape


def sidecars_from_parts(
    folder: Path, shards: Sequence[ShardRecord], index: np.ndarray, made_from: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the files beside the index, row by row, from the tars alone, as `write_index` takes them.

    Also what the manifest says of the text.
    """
    flips, texts = views_from_parts(folder, shards, index)
    features = _beside_from_parts(folder, shards, index, feature_ranges)
    stills = _beside_from_parts(folder, shards, index, still_ranges)
    starts = np.cumsum([0, *(shard.samples for shard in shards)]).tolist()
    width = made_from["text"]["width"] if texts is not None else 0
    crcs = []
    for shard, start, stop in zip(shards, starts[:-1], starts[1:], strict=True):
        flips_here, texts_here = (None if t is None else t[start:stop] for t in (flips, texts))
        here = [b and (b[0][start:stop], b[1][start:stop]) for b in (features, stills)]
        crcs.append(range_crcs(folder / shard.name, index[start:stop], flips_here, texts_here, width, *here))
    captions = _captions_from_parts(folder, shards, index) if texts is not None else None
    arrays = captions.arrays() if captions else None
    files = {"flips": flips, "texts": texts, "crcs": np.concatenate(crcs), "captions": arrays}
    beside = {"features": features and features[0], "stills": stills and stills[0]}
    return files | beside, text_facts(texts, captions)


def _captions_from_parts(
    folder: Path, shards: Sequence[ShardRecord], index: np.ndarray
) -> CaptionTable | None:
    paths = [folder / shard.name for shard in shards]
    places = [scan_part(path) for path in paths]
    if not any(map(with_several, places)):
        return None
    rows = np.split(index, np.cumsum([shard.samples for shard in shards])[:-1])
    return CaptionTable.joined([captions_of(*part) for part in zip(paths, places, rows, strict=True)])


def _beside_from_parts(
    folder: Path,
    shards: Sequence[ShardRecord],
    index: np.ndarray,
    ranges: Callable[[Sequence[Place], np.ndarray], Ranges],
) -> Ranges | None:
    """Rebuild where features or stills lie from the tars alone; None where no part holds any."""
    rows = np.split(index, np.cumsum([shard.samples for shard in shards])[:-1])
    found = [ranges(scan_part(folder / shard.name), part) for shard, part in zip(shards, rows, strict=True)]
    offsets, sizes = (np.concatenate(column) for column in zip(*found, strict=True))
    return (offsets, sizes) if offsets.any() else None


def views_from_parts(
    folder: Path, shards: Sequence[ShardRecord], index: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Rebuild the contents of `flip.npy` and `text.npy` from the tars alone; None for what no part holds."""
    starts = np.cumsum([0, *(shard.samples for shard in shards)])
    flips, texts, found = [], [], False
    for shard, start, stop in zip(shards, starts[:-1], starts[1:], strict=True):
        places, rows = scan_part(folder / shard.name), index[start:stop]
        flips.append(flip_rows(places, rows))
        texts.append(text_rows(places, rows))
        found = found or any(place.text is not None for place in places)
    mirrored = np.concatenate(flips)
    return mirrored if mirrored.any() else None, np.concatenate(texts) if found else None


def index_from_parts(folder: Path, shards: Sequence[ShardRecord]) -> tuple[np.ndarray, list[Shape]]:
    """Rebuild the index of a cache and its table of shapes from the tars alone, equal to the first ones.

    WorkError for a part that is damaged, or does not hold the rows that follow those of the part before.
    """
    places = [scan_part(folder / shard.name) for shard in shards]
    every = [place for part in places for place in part]
    shapes = {place.shape for place in every if len(place.ids)}
    shapes |= {sample.shape for place in every for sample in place.absent if sample.shape}
    table = sorted(shapes)
    rows, first = [], 0
    for number, (shard, part) in enumerate(zip(shards, places, strict=True)):
        rows.append(index_rows(folder / shard.name, part, shard=number, first=first, buckets=table))
        first += len(rows[-1])
    return np.concatenate(rows), table
