"""Rebuild index and manifest from the tars: raw and latent ones, written here or elsewhere.

The new files are made whole in a folder of their own, then put in place with the manifest last. So a killed
attempt leaves the old dataset, or an unfinished one that the next attempt completes; never an index that
belongs to another manifest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from core.errors import UserError
from core.faults.failpoints import failpoint
from core.files import fsync_folder, published, regular, temporaries
from data.dataset.manifest import DatasetManifest
from data.dataset.media_rows import media_row
from data.dataset.schema import COLOUR, MANIFEST, write_index
from data.dataset.shared.shard_table import ShardRecord
from data.dataset.tars import TarSample, arrays, read_member, samples
from data.media.colour import ColourMode
from data.media.formats import DEFAULT_LIMITS, Media, MediaError, MediaLimits
from data.media.images import probe
from data.raw.annotations.captions import read_tar_annotation
from data.raw.annotations.labels import known_names, with_labels
from data.raw.annotations.several import stored
from data.raw.item import Item
from data.raw.layouts.tar_samples import media_members
from data.raw.raw_index import count_found, index_rows, raw_manifest

MAKING = ".reindex"  # inside the dataset, until the new files are in place
Advance = Callable[[], None]


class Reindexed(NamedTuple):
    """The new manifest, and the names of the tars that differ from those the old one knew."""

    manifest: DatasetManifest
    changed: tuple[str, ...]


def reindex(
    folder: Path,
    limits: MediaLimits = DEFAULT_LIMITS,
    advance: Advance = lambda: None,
    *,
    made_from: Mapping[str, Any] | None = None,
    budget: float = 0,
) -> Reindexed:
    """Rebuild `index.npy`, `media.npy` and `dataset.json` from the tars; `advance` is called per tar.

    For tars that `shard` or `encode` wrote, they come out as they were, byte by byte (names of classes
    without samples come from the old manifest). Raw tars from elsewhere need one image or video a sample,
    with its class in `json` or `cls` members. The origin of a latent cache stands in its manifest alone,
    which must therefore exist. Latent tars from elsewhere need one array a sample
    (`data.reindexing.foreign.read_foreign`); made_from: what is to be recorded of their encoder, as a cache's
    manifest has it; unusable ones among them are set aside, within `budget` (as
    `data.dataset.quarantine.Quarantine` takes it). UserError if there are no tars or a sample is unusable;
    WorkError if a tar is damaged.
    """
    paths = published(folder, "*.tar")
    if not paths:
        raise UserError("source", folder, "a folder with .tar files")
    before = _manifest_before(folder)
    making = folder / MAKING
    for left in (*published(making), *temporaries(making)):
        if left.name != MANIFEST:  # which may be what `before` was read from
            left.unlink()
    kind = _kind(paths[0], before)
    if kind == "foreign":
        from data.reindexing.caches import foreign_manifest

        manifest = foreign_manifest(folder, making, paths, before, made_from, budget, advance)
    elif made_from:
        raise UserError(f"{folder}: only of latents from elsewhere can be stated what made them")
    elif kind == "latent":
        if before is None:
            raise UserError(
                f"{folder}: latents without {MANIFEST}: what they were made from is recorded nowhere else"
            )
        from data.reindexing.caches import latent_manifest

        manifest = latent_manifest(folder, making, paths, before, advance)
    else:
        manifest = _raw_manifest(folder, paths, before, limits, advance)
    manifest.write(making)
    _put_in_place(folder)
    known = {shard.name: shard.sha256 for shard in before.shards} if before else {}
    changed = [s.name for s in manifest.shards if known and known.get(s.name) != s.sha256]
    return Reindexed(manifest, tuple(changed + sorted(known.keys() - {s.name for s in manifest.shards})))


def _manifest_before(folder: Path) -> DatasetManifest | None:
    """Return the manifest that is there, or the one a killed attempt was about to put in place."""
    for place in (folder, folder / MAKING):
        if (place / MANIFEST).exists():
            return DatasetManifest.read(place)
    return None


def _put_in_place(folder: Path) -> None:
    """Replace the files; the manifest goes first and comes last, as without it the folder is no finished
    dataset.
    """
    making = folder / MAKING
    (folder / MANIFEST).unlink(missing_ok=True)
    failpoint("reindex.publish")
    for path in published(making):
        if path.name != MANIFEST:
            os.replace(path, folder / path.name)
    fsync_folder(folder)
    os.replace(making / MANIFEST, folder / MANIFEST)
    fsync_folder(folder)
    making.rmdir()


def _kind(path: Path, before: DatasetManifest | None) -> Literal["raw", "latent", "foreign"]:
    """Return what the tars hold, by the manifest or else the first tar: media, packs of latents, other
    arrays.
    """
    if before is not None:
        foreign = "tars" in before.extra.get("made_from", {})
        return "foreign" if foreign else before.kind
    for sample in samples(path):
        if media_members(sample):
            return "raw"
        if arrays(sample):
            return "latent" if {"latent.npy", "id.npy"} <= sample.members.keys() else "foreign"
    return "raw"


def _raw_manifest(
    folder: Path, paths: list[Path], before: DatasetManifest | None, limits: MediaLimits, advance: Advance
) -> DatasetManifest:
    records: list[ShardRecord] = []
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    items: list[Item] = []
    found: list[Mapping[str, str]] = []
    colour: ColourMode = before.extra.get(COLOUR, "convert") if before else "convert"
    for number, path in enumerate(paths):
        rows = []
        with open(path, "rb", opener=regular) as file:
            for sample in samples(path):
                item, facts = _indexed(file.fileno(), path, sample, limits, colour)
                items.append(item)
                rows.append((sample.offset, sample.end - sample.offset, -1, *media_row(facts)))
                found.append(facts.found)
        if not rows:
            raise UserError(f"{path}: holds no sample")
        tables.append(index_rows(number, rows))
        records.append(ShardRecord.of(path, len(rows)))
        advance()
    index, facts_table = (np.concatenate(part) for part in zip(*tables, strict=True))
    labelled, classes = with_labels(items)
    index["id"], index["label"] = np.arange(len(index)), [item.label for item in labelled]
    files = write_index(folder / MAKING, index, facts_table)
    names = known_names(classes, before.classes if before else ())
    texts = sum(bool(item.text) for item in items)
    captions = sum(len(item.more.get("texts", ())) or bool(item.text) for item in items)
    counts = count_found(found)
    return raw_manifest(tuple(records), names, files, index, texts, counts, colour, captions)


def _indexed(
    file: int, path: Path, sample: TarSample, limits: MediaLimits, colour: ColourMode
) -> tuple[Item, Media]:
    """Return label, class and media facts of one sample in a tar."""
    wanted = media_members(sample)
    try:
        if sample.refused or len(wanted) != 1:
            raise MediaError(sample.refused or f"has {len(wanted)} images or videos, expected 1")
        annotation = read_tar_annotation(file, path, sample)
        if annotation.refused:
            raise MediaError(annotation.refused[1])
        limits.check_bytes(wanted[0].size)
        facts = probe(read_member(file, path, wanted[0]), limits, fields=True, colour=colour)
    except MediaError as error:
        hint = "`longtake shard` can set such samples aside"
        raise UserError(f"{path}: sample {sample.key!r}: {error} ({hint})") from None
    item = Item(sample.key, path, 0, 0, annotation.label, annotation.class_name, annotation.text)
    return replace(item, more=stored(annotation.captions)), facts
