"""Make the index of a latent cache, and the files beside it, again from its tars alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset.manifest import ShardRecord
from data.latent.assembly import text_facts
from data.latent.caption_table import CaptionTable, captions_of, with_several
from data.latent.checksums import feature_bytes, range_crcs
from data.latent.pack_reading import scan_part
from data.latent.pack_rows import feature_rows, flip_rows, index_rows, text_rows
from data.latent.packs import Shape


def sidecars_from_parts(
    folder: Path, shards: Sequence[ShardRecord], index: np.ndarray, made_from: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the files beside the index, row by row, from the tars alone, as `write_index` takes them.

    Also what the manifest says of the text.
    """
    flips, texts, features = views_from_parts(folder, shards, index)
    starts = np.cumsum([0, *(shard.samples for shard in shards)]).tolist()
    width = made_from["text"]["width"] if texts is not None else 0
    crcs = []
    for shard, start, stop in zip(shards, starts[:-1], starts[1:], strict=True):
        flips_here, texts_here = (None if t is None else t[start:stop] for t in (flips, texts))
        here = None if features is None else (features[0][start:stop], features[1][start:stop])
        crcs.append(range_crcs(folder / shard.name, index[start:stop], flips_here, texts_here, width, here))
    captions = _captions_from_parts(folder, shards, index) if texts is not None else None
    arrays = captions.arrays() if captions else None
    files = {"flips": flips, "texts": texts, "crcs": np.concatenate(crcs), "captions": arrays}
    return files | {"features": features and features[0]}, text_facts(texts, captions)


def _captions_from_parts(
    folder: Path, shards: Sequence[ShardRecord], index: np.ndarray
) -> CaptionTable | None:
    paths = [folder / shard.name for shard in shards]
    places = [scan_part(path) for path in paths]
    if not any(map(with_several, places)):
        return None
    rows = np.split(index, np.cumsum([shard.samples for shard in shards])[:-1])
    return CaptionTable.joined([captions_of(*part) for part in zip(paths, places, rows, strict=True)])


def views_from_parts(
    folder: Path, shards: Sequence[ShardRecord], index: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]:
    """Rebuild the contents of `flip.npy`, `text.npy` and `features.npy` from the tars alone.

    None for what no part holds.  With the last: the bytes of one view's features of each sample.
    """
    starts = np.cumsum([0, *(shard.samples for shard in shards)])
    flips, texts, features, sizes, found = [], [], [], [], False
    for shard, start, stop in zip(shards, starts[:-1], starts[1:], strict=True):
        places, rows = scan_part(folder / shard.name), index[start:stop]
        flips.append(flip_rows(places, rows))
        texts.append(text_rows(places, rows))
        features.append(feature_rows(places, rows))
        sizes.append(feature_bytes(places, rows))
        found = found or any(place.text is not None for place in places)
    mirrored, pictures = np.concatenate(flips), np.concatenate(features)
    return (
        mirrored if mirrored.any() else None,
        np.concatenate(texts) if found else None,
        (pictures, np.concatenate(sizes)) if pictures.any() else None,
    )


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
