"""Summarise a dataset (totals, classes, shapes, sizes, samples set aside) as JSON values and as text."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.progress import counted, size
from core.records import iterate
from data.dataset.cache_notes import cache_notes
from data.dataset.found import found_lines
from data.dataset.index import Dataset
from data.dataset.manifest import read_sidecar
from data.dataset.media_rows import seconds
from data.dataset.quarantine import QuarantineEntry, read_quarantine
from data.dataset.schema import BUCKET_COUNTS, FOUND, LEFT_OUT, QUARANTINE, TEXT, TEXT_DTYPE
from data.dataset.shared.shard_table import bytes_of, samples_of
from data.order.buckets import NO_BUCKET, is_image

_EXACT = functools.partial(size, digits=4)
MOST_SHAPES = 1000  # rows of the histogram
MOST_LINES = 20  # lines of a table, as text
BAR = 24  # characters of the longest bar


def summarise(dataset: Dataset) -> dict[str, Any]:
    """Return everything about the dataset as JSON values; reads index, media facts and lists, but no sample.

    Ranges are [least, median, most]. shapes: [frames, height, width] of raw samples, [M, C, T, H, W] of
    latents, the most frequent first.
    """
    manifest = dataset.manifest
    index = np.asarray(dataset.index)
    absent = int((index["size"] == 0).sum())
    return {
        "folder": str(dataset.folder),
        "kind": manifest.kind,
        "fingerprint": manifest.fingerprint,
        "totals": {
            "samples": manifest.samples,
            "bytes": manifest.bytes,
            "shards": len(manifest.shards),
            "absent": absent,
        },
        "shard_samples": _range(samples_of(manifest.shards)),
        "shard_bytes": _range(bytes_of(manifest.shards)),
        "sample_bytes": _range(index["size"][index["size"] > 0]),
        "coverage": {
            "samples": manifest.samples,
            "labels": int((index["label"] >= 0).sum()),
            "texts": _texts(dataset),
        },
        "classes": _classes(index["label"], manifest.classes),
        "buckets": _buckets(index["bucket"], manifest.buckets),
        "shapes": _shapes(dataset, index),
        "media": _media(dataset) if manifest.kind == "raw" else {},
        "found": manifest.extra.get(FOUND, {}),
        "extra": {
            name: value
            for name, value in manifest.extra.items()
            if name not in (BUCKET_COUNTS, "texts", FOUND)
        },
        "notes": cache_notes(manifest),
        "quarantine": _entries(read_quarantine(dataset.folder)),
        "left_out": _left_out(dataset.folder / LEFT_OUT),
    }


def as_text(summary: dict[str, Any]) -> list[str]:
    """Return the summary as lines for a person to read."""
    totals, quarantine = summary["totals"], summary["quarantine"]
    lines = [
        f"{summary['folder']}: {summary['kind']} dataset {summary['fingerprint'][:16]}",
        f"{counted(totals['samples'], 'sample')}, {_EXACT(totals['bytes'])}, "
        f"{counted(totals['shards'], 'shard')}",
        f"samples in a shard {_shown(summary['shard_samples'])} (least, median, most)",
        f"bytes of a shard   {_shown(summary['shard_bytes'], _EXACT)}",
        f"bytes of a sample  {_shown(summary['sample_bytes'], _EXACT)}",
    ]
    if totals["absent"]:
        lines.append(f"without latents, so with weight 0 in training: {counted(totals['absent'], 'sample')}")
    for name, values in summary["media"].items():
        lines.append(f"{name:<18} {_shown(values)}")
    lines += [_coverage(summary["coverage"]), *found_lines(summary["found"])]
    for title in ("classes", "buckets", "shapes"):
        lines += ["", f"{title}:", *_bars(summary[title])]
    if "statistics" in summary["extra"]:
        lines += ["", "latent channels, mean and standard deviation:"]
        statistics = summary["extra"]["statistics"]
        mean, std = (np.array(statistics[name]) for name in ("mean", "std"))
        pairs = zip(
            *(values.reshape(len(values), -1).mean(1).tolist() for values in (mean, std)), strict=True
        )
        lines += [f"  {channel:>3}  {mean:9.4f}  {std:9.4f}" for channel, (mean, std) in enumerate(pairs)]
    if "made_from" in summary["extra"]:
        lines += ["", "made from:", *_nested(summary["extra"]["made_from"])]
    lines += ["", *summary["notes"]] if summary["notes"] else []
    lines += ["", f"quarantine: {counted(quarantine['entries'], 'sample')} set aside"]
    lines += [f"  {count:>8}  at stage {stage}" for stage, count in quarantine["stages"].items()]
    lines += [f"  {entry['id']}: {entry['stage']}: {entry['error']}" for entry in quarantine["first"]]
    if left := summary["left_out"]:
        lines += ["", f"left out by filters, duplicates and cutting: {sum(left.values())}", *_bars_of(left)]
    return lines


def _texts(dataset: Dataset) -> int | None:
    """Count samples with a caption; None for a dataset that was made before they were counted."""
    if dataset.manifest.kind == "raw":
        return dataset.manifest.extra.get("texts")
    if TEXT not in dataset.manifest.files:
        return 0
    return int((read_sidecar(dataset.folder / TEXT, TEXT_DTYPE, dataset.manifest)["tokens"] > 0).sum())


def _coverage(coverage: dict[str, Any]) -> str:
    """Say how many samples have text and how many a label."""
    texts = "text was not counted yet" if coverage["texts"] is None else f"{coverage['texts']} with text"
    return f"of {counted(coverage['samples'], 'sample')}: {texts}, {coverage['labels']} with a label"


def _range(values: Sequence[int] | np.ndarray) -> list[float]:
    """Return [least, median, most]; [] for no values."""
    array = np.asarray(values)
    if not array.size:
        return []
    return [round(float(value), 4) for value in (array.min(), np.median(array), array.max())]


def _classes(labels: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    found, counts = np.unique(labels, return_counts=True)
    by_label = dict(zip(found.tolist(), counts.tolist(), strict=True))
    rows = [
        {"label": label, "name": name, "samples": by_label.pop(label, 0)} for label, name in enumerate(names)
    ]
    rows += [
        {"label": label, "name": "no class" if label < 0 else str(label), "samples": count}
        for label, count in by_label.items()
    ]
    return rows


def _buckets(column: np.ndarray, table: Sequence[Any]) -> list[dict[str, Any]]:
    counts = np.bincount(column, minlength=NO_BUCKET + 1)
    names = [name if isinstance(name, str) else "x".join(map(str, name)) for name in table]
    rows = [{"name": name, "samples": int(counts[number])} for number, name in enumerate(names)]
    if counts[NO_BUCKET]:
        rows.append({"name": "fits none", "samples": int(counts[NO_BUCKET])})
    return rows


def _shapes(dataset: Dataset, index: np.ndarray) -> list[dict[str, Any]]:
    if dataset.manifest.kind == "latent":
        present = index["bucket"][index["size"] > 0]
        shapes = np.array(dataset.manifest.buckets, np.int64)
        counts = np.bincount(present, minlength=len(shapes))[: len(shapes)]
    else:
        frames, height, width = (
            np.asarray(dataset.media[n], np.int64) for n in ("frames", "height", "width")
        )
        keys, counts = np.unique((frames << 40) + (height << 20) + width, return_counts=True)
        shapes = np.stack([keys >> 40, (keys >> 20) & 0xFFFFF, keys & 0xFFFFF], 1)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    found = [(shapes[n].tolist(), int(counts[n])) for n in order[:MOST_SHAPES].tolist()]
    rows = [{"name": "x".join(map(str, s)), "shape": s, "samples": count} for s, count in found]
    if len(order) > MOST_SHAPES:
        rest = int(counts[order[MOST_SHAPES:]].sum())
        rows.append({"name": f"{len(order) - MOST_SHAPES} other shapes", "shape": [], "samples": rest})
    return rows


def _media(dataset: Dataset) -> dict[str, list[float]]:
    media = np.asarray(dataset.media)
    videos = media[~is_image(media)]
    values = {
        "width": media["width"],
        "height": media["height"],
        "width / height": media["width"] / np.maximum(media["height"], 1),
        "frames of a video": videos["frames"],
        "seconds of a video": seconds(videos),
        "frames a second": videos["fps"],
    }
    return {name: _range(array) for name, array in values.items() if array.size}


def _entries(entries: Sequence[QuarantineEntry]) -> dict[str, Any]:
    return {
        "file": QUARANTINE,
        "entries": len(entries),
        "stages": dict(sorted(Counter(entry.stage for entry in entries).items())),
        "first": [vars(entry) for entry in entries[:MOST_LINES]],
    }


def _left_out(path: Path) -> dict[str, int]:
    """Count the samples that `shard` left out: {reason: number}."""
    return dict(Counter(str(row.get("reason", "")) for row in iterate(path)).most_common())


def _bars(rows: Sequence[dict[str, Any]]) -> list[str]:
    return _bars_of({row["name"]: row["samples"] for row in rows})


def _bars_of(counts: dict[str, int]) -> list[str]:
    """Draw a line for each count: count, share, bar and name.

    The rest share one line if there are too many.
    """
    most, total = max(counts.values(), default=1) or 1, sum(counts.values()) or 1
    shown = list(counts.items())[:MOST_LINES]
    lines = [
        f"  {count:>10} {count / total:7.2%}  {'#' * round(BAR * count / most):<{BAR}}  {name}"
        for name, count in shown
    ]
    if rest := list(counts.values())[MOST_LINES:]:
        lines.append(
            f"  {sum(rest):>10} {sum(rest) / total:7.2%}  {'':<{BAR}}  {counted(len(rest), 'other')}"
        )
    return lines


def _nested(value: Any, path: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [f"  {path}={value}"]
    return [line for name, item in value.items() for line in _nested(item, f"{path}.{name}".lstrip("."))]


def _shown(values: Sequence[float], form: Any = lambda value: f"{value:g}") -> str:
    return "  ".join(form(value) for value in values) or "-"
