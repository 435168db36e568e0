"""CRC-32 of what training reads of each sample of a cache, which `data.verify=samples` compares."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from core.errors import UserError, WorkError
from core.files import regular
from data.dataset.blocks import ways_to_mend
from data.dataset.manifest import DatasetManifest, read_sidecar
from data.dataset.schema import CRC, FEATURES, FLIP, STILLS, TEXT, crc_dtype
from data.latent.pack_rows import Ranges, feature_ranges, flip_rows, still_ranges, text_rows
from data.latent.packs import LATENT_DTYPE, Place


def crcs_of(path: Path, places: Sequence[Place], rows: np.ndarray, views: Collection[str]) -> np.ndarray:
    """Compute the rows of `crc.npy` for the samples of one part from its tar, (samples,) of `crc_dtype`.

    places: its packs.  rows: INDEX_DTYPE.  views: the files of mirrored views and text that the cache has.
    """
    flips = flip_rows(places, rows) if FLIP in views else None
    texts = text_rows(places, rows) if TEXT in views else None
    width = next((place.text.width for place in places if place.text is not None), 0)
    features = feature_ranges(places, rows) if FEATURES in views else None
    stills = still_ranges(places, rows) if STILLS in views else None
    return range_crcs(path, rows, flips, texts, width, features, stills)


def range_crcs(
    path: Path,
    rows: np.ndarray,
    flips: np.ndarray | None = None,
    texts: np.ndarray | None = None,
    width: int = 0,
    features: Ranges | None = None,
    stills: Ranges | None = None,
) -> np.ndarray:
    """Compute the same for ranges given by the rows of `flip.npy` and `text.npy`.

    width: D of a token.  The mirrored view of features and stills follows the plain one.
    """
    sizes = rows["size"].astype(np.int64)
    ranges = {"sample": (rows["offset"], sizes)}
    if flips is not None:
        ranges["flip"] = (flips, np.where(flips > 0, sizes, 0))
    if texts is not None:
        bytes_of_token = width * LATENT_DTYPE.itemsize
        ranges["text"] = (texts["offset"], texts["tokens"].astype(np.int64) * bytes_of_token)
    for name, beside in (("features", features), ("still", stills)):
        if beside is not None:
            first, size = beside
            ranges[name] = (first, size)
            if flips is not None:
                ranges[f"flip_{name}"] = (first + size.astype(np.uint64), size)
    found = np.zeros(len(rows), [(column, "<u4") for column in ranges])
    with (
        open(path, "rb", opener=regular) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        for column, (offsets, lengths) in ranges.items():
            places = zip(offsets.tolist(), lengths.tolist(), strict=True)
            found[column] = [zlib.crc32(data[at : at + size]) if size else 0 for at, size in places]
    return found


class SampleCrcs:
    """Compares what was read of samples with `crc.npy`.

    UserError, for the field `verify`, where the cache has none.
    """

    def __init__(self, folder: Path, manifest: DatasetManifest) -> None:
        if CRC not in manifest.files:
            expected = (
                f"index or off: {folder} has no {CRC} (an earlier version made it; "
                f"`longtake inspect {folder} action=reindex` adds it)"
            )
            raise UserError("verify", "samples", expected)
        self._folder, self._manifest = folder, manifest
        self._table = read_sidecar(folder / CRC, crc_dtype(manifest.files), manifest)

    def require(
        self, rows: np.ndarray, shards: np.ndarray, values: Tensor, flipped: np.ndarray | None = None
    ) -> None:
        """Compare latents (n, bytes) uint8 of rows (n,); WorkError names the first that differs.

        shards: (n,) where each lies.  flipped: (n,) bool, which are the mirrored view.
        """
        entries = self._table.take(rows)
        wanted = entries["sample"]
        if flipped is not None:
            wanted = np.where(flipped, entries["flip"], wanted)
        found = [zlib.crc32(value.data) for value in values.numpy()]
        self._require_equal(rows, shards, wanted, found, "sample")

    def require_beside(
        self,
        column: str,
        rows: np.ndarray,
        shards: np.ndarray,
        values: Tensor,
        flipped: np.ndarray | None = None,
    ) -> None:
        """Compare what lies beside latents, features or stills by its column, as `require` does latents."""
        entries = self._table.take(rows)
        wanted = entries[column]
        if flipped is not None:
            wanted = np.where(flipped, entries[f"flip_{column}"], wanted)
        found = [zlib.crc32(value.data) for value in values.numpy()]
        self._require_equal(rows, shards, wanted, found, f"the {column} of sample")

    def require_texts(
        self,
        rows: np.ndarray,
        shards: np.ndarray,
        texts: Sequence[np.ndarray],
        crcs: np.ndarray | None = None,
    ) -> None:
        """Compare the embedded captions of rows (n,), each (tokens, D) float16.

        crcs: (n,) what they are to be; None is what `crc.npy` says of the first caption.
        """
        found = [zlib.crc32(np.ascontiguousarray(text).data) for text in texts]
        wanted = self._table.take(rows)["text"] if crcs is None else crcs
        self._require_equal(rows, shards, wanted, found, "the text of sample")

    def _require_equal(
        self, rows: np.ndarray, shards: np.ndarray, wanted: np.ndarray, found: Sequence[int], what: str
    ) -> None:
        differs = np.flatnonzero(wanted != np.array(found, np.uint32))
        if len(differs):
            first = differs[0]
            name = self._manifest.shards[int(shards[first])].name
            raise WorkError(
                f"{self._folder / name}: damaged: {what} {rows[first]} is not what {CRC} has the CRC-32 of; "
                f"{ways_to_mend(self._folder)}"
            )
