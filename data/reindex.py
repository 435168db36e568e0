"""Index and manifest made anew from the tars: raw and latent ones, our own and from elsewhere.

The new files are made whole in a folder of their own, then put in place with the manifest last. So a killed
attempt leaves the old dataset, or an unfinished one that the next attempt completes; never an index that
belongs to another manifest.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from core.errors import UserError, WorkError
from core.failpoints import failpoint
from core.files import fsync_folder, regular, sha256_file
from data.captions import read_tar_annotation
from data.formats import DEFAULT_LIMITS, Media, MediaError, MediaLimits
from data.ingest import Item, media_members, with_labels
from data.media import probe
from data.packs import Shape
from data.schema import (
    MANIFEST,
    QUARANTINE,
    DatasetManifest,
    Quarantine,
    ShardRecord,
    content_fingerprint,
    write_index,
)
from data.shards import index_rows, raw_manifest
from data.tars import TarSample, arrays, read_member, samples

MAKING = ".reindex"  # inside the dataset, until the new files are in place
Advance = Callable[[], None]


class Reindexed(NamedTuple):
    """The new manifest, and the names of the tars that are not those the old one knew."""

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
    """Make `index.npy`, `media.npy` and `dataset.json` anew from the tars; `advance` is called per tar.

    Of tars that `shard` or `encode` wrote they come out as they were, byte by byte (names of classes without
    samples come from the old manifest). Raw tars from elsewhere need one image or video a sample, with its
    class in `json` or `cls` members. What a latent cache was made from stands in its manifest alone, so
    that must be there. Latent tars from elsewhere need one array a sample (`data.foreign.read_foreign`);
    made_from: what is to be recorded of their encoder, as a cache's manifest has it; unusable ones among them
    are set aside, within `budget` (as `data.schema.Quarantine` takes it).
    UserError if there are no tars or a sample is unusable; WorkError if a tar is damaged.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".tar")
    if not paths:
        raise UserError("source", folder, "a folder with .tar files")
    before = _manifest_before(folder)
    making = folder / MAKING
    for left in making.iterdir() if making.exists() else ():
        if left.name != MANIFEST:  # which may be what `before` was read from
            left.unlink()
    kind = _kind(paths[0], before)
    if kind == "foreign":
        manifest = _foreign_manifest(folder, paths, before, made_from, budget, advance)
    elif made_from:
        raise UserError(f"{folder}: only of latents from elsewhere can be stated what made them")
    elif kind == "latent":
        if before is None:
            raise UserError(
                f"{folder}: latents without {MANIFEST}: what they were made from is recorded nowhere else"
            )
        manifest = _latent_manifest(folder, paths, before, advance)
    else:
        manifest = _raw_manifest(folder, paths, before, limits, advance)
    manifest.write(making)
    _put_in_place(folder)
    known = {shard.name: shard.sha256 for shard in before.shards} if before else {}
    changed = [s.name for s in manifest.shards if known and known.get(s.name) != s.sha256]
    return Reindexed(manifest, tuple(changed + sorted(known.keys() - {s.name for s in manifest.shards})))


def _manifest_before(folder: Path) -> DatasetManifest | None:
    """The manifest that is there, or the one a killed attempt was about to put in place."""
    for place in (folder, folder / MAKING):
        if (place / MANIFEST).exists():
            return DatasetManifest.read(place)
    return None


def _put_in_place(folder: Path) -> None:
    """Without a manifest the folder is no finished dataset; so it goes first and comes last."""
    making = folder / MAKING
    (folder / MANIFEST).unlink(missing_ok=True)
    failpoint("reindex.publish")
    for path in sorted(making.iterdir()):
        if path.name != MANIFEST:
            os.replace(path, folder / path.name)
    fsync_folder(folder)
    os.replace(making / MANIFEST, folder / MANIFEST)
    fsync_folder(folder)
    making.rmdir()


def _kind(path: Path, before: DatasetManifest | None) -> Literal["raw", "latent", "foreign"]:
    """What the tars hold, by the manifest, or else by the first tar: media, our packs, or other arrays."""
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
    for number, path in enumerate(paths):
        rows = []
        with open(path, "rb", opener=regular) as file:
            for sample in samples(path):
                item, facts = _indexed(file.fileno(), path, sample, limits)
                items.append(item)
                rows.append((sample.offset, sample.end - sample.offset, -1, *facts))
        if not rows:
            raise UserError(f"{path}: holds no sample")
        tables.append(index_rows(number, rows))
        records.append(_record(path, len(rows)))
        advance()
    index, facts_table = (np.concatenate(part) for part in zip(*tables, strict=True))
    labelled, classes = with_labels(items)
    index["id"], index["label"] = np.arange(len(index)), [item.label for item in labelled]
    files = write_index(folder / MAKING, index, facts_table)
    names = _known_names(classes, before.classes if before else ())
    return raw_manifest(tuple(records), names, files, index)


def _known_names(found: tuple[str, ...], before: tuple[str, ...]) -> tuple[str, ...]:
    """The classes there were, if those found agree with them; a class without samples shows in no tar."""
    agree = len(before) >= len(found) and all(
        name in (before[number], str(number)) for number, name in enumerate(found)
    )
    return before if agree else found


def _indexed(file: int, path: Path, sample: TarSample, limits: MediaLimits) -> tuple[Item, Media]:
    """Label, class and media facts of one sample in a tar."""
    wanted = media_members(sample)
    try:
        if sample.refused or len(wanted) != 1:
            raise MediaError(sample.refused or f"has {len(wanted)} images or videos, expected 1")
        annotation = read_tar_annotation(file, path, sample)
        if annotation.refused:
            raise MediaError(annotation.refused[1])
        limits.check_bytes(wanted[0].size)
        facts = probe(read_member(file, path, wanted[0]), limits)
    except MediaError as error:
        hint = "`longtake shard` can set such samples aside"
        raise UserError(f"{path}: sample {sample.key!r}: {error} ({hint})") from None
    return Item(sample.key, path, 0, 0, annotation.label, annotation.class_name), facts


def _foreign_manifest(
    folder: Path,
    paths: list[Path],
    before: DatasetManifest | None,
    made_from: Mapping[str, Any] | None,
    budget: float,
    advance: Advance,
) -> DatasetManifest:
    """As of a cache of ours; the list of samples set aside is new too."""
    from data.foreign import origin, read_foreign

    found, quarantine = read_foreign(paths, advance), folder / MAKING / QUARANTINE
    quarantine.parent.mkdir(exist_ok=True)
    aside = Quarantine(quarantine, total=len(found.items), budget=budget)
    aside.rewrite(found.refused)
    aside.check()
    if (folder / QUARANTINE).exists():
        quarantine.touch()  # an empty list in place of one that no longer holds
    index, shapes, classes = found.index()
    records = [_record(path, count) for path, count in zip(paths, found.counts, strict=True)]
    classes = _known_names(classes, before.classes if before else ())
    extra = {
        "made_from": origin(made_from, before.extra["made_from"] if before else None),
        "statistics": found.statistics(),
    }
    files = write_index(folder / MAKING, index)
    return _cache_manifest(records, index, shapes, classes, files, quarantine, extra)


def _latent_manifest(
    folder: Path, paths: list[Path], before: DatasetManifest, advance: Advance
) -> DatasetManifest:
    """Index, table of shapes and statistics from the parts; every value of them is read."""
    from data.assembly import index_from_parts, longest_text, views_from_parts
    from data.latents import LatentSums
    from data.packs import read_part

    names = {path.name for path in paths}
    if lost := sorted({shard.name for shard in before.shards} - names):
        raise WorkError(f"{folder / lost[0]}: missing; its samples stand in no other part")
    sums: list[LatentSums] = []  # of each part, added up as `encode` does: floats have no other order
    records = []
    for path in paths:
        count, of_packs = 0, []
        for pack in read_part(path):
            count += len(pack.ids) + len(pack.absent)
            of_packs += [LatentSums.of(pack.latents)] if len(pack.ids) else []
        sums += [functools.reduce(operator.add, of_packs)] if of_packs else []
        records.append(_record(path, count))
        advance()
    if not sums:
        raise UserError(f"{folder}: its parts hold no latents")
    statistics = functools.reduce(operator.add, sums).statistics()
    index, shapes = index_from_parts(folder, records)
    flips, texts = views_from_parts(folder, records, index)
    files = write_index(folder / MAKING, index, flips=flips, texts=texts)
    extra = {**before.extra, "statistics": statistics, **longest_text(texts)}
    return _cache_manifest(records, index, shapes, before.classes, files, folder / QUARANTINE, extra)


def _cache_manifest(
    records: Sequence[ShardRecord],
    index: np.ndarray,
    shapes: Sequence[Shape],
    classes: tuple[str, ...],
    files: Mapping[str, str],
    quarantine: Path,
    extra: Mapping[str, Any],
) -> DatasetManifest:
    """Of a latent cache with this index; quarantine: its list of samples set aside, if there is one."""
    from data.order import count_buckets

    starts = np.cumsum([0, *(record.samples for record in records)])
    counts = count_buckets(index["bucket"], starts, len(shapes)).tolist()
    identity = content_fingerprint(
        "latent", records, files, classes=list(classes), made_from=extra["made_from"]
    )
    listed = {QUARANTINE: sha256_file(quarantine)} if quarantine.exists() else {}
    return DatasetManifest(
        kind="latent",
        fingerprint=identity,
        shards=tuple(records),
        classes=classes,
        buckets=tuple(list(shape) for shape in shapes),
        files={**files, **listed},
        extra={**extra, "bucket_counts": counts},
    )


def _record(path: Path, count: int) -> ShardRecord:
    return ShardRecord(name=path.name, samples=count, bytes=path.stat().st_size, sha256=sha256_file(path))
