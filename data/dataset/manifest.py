"""The manifest of a dataset, `dataset.json`: what it contains, and how it is checked when read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from core import garbage
from core.errors import UserError, WorkError
from core.files import fingerprint, sealed, write_json
from core.progress import counted
from core.reading import json_files
from core.reading.instead import instead
from core.reading.json_scalars import FileName
from data.dataset.blocks import Table, block_crcs, open_table
from data.dataset.manifest_fields import Crcs, Latent, Raw
from data.dataset.schema import BUCKET_COUNTS, CAPTION_SPANS, CRC, FEATURES, MANIFEST, STILLS
from data.dataset.shared.manifest_copies import LEAST_BYTES, Parsed, shared
from data.dataset.shared.shard_table import CountTable, ShardRecord, bytes_of, samples_of

FORMAT_VERSION = 1
WIDER_VERSION = 2  # of what an earlier version would read wrongly: float32 latents, several captions
FINISHED = f"a finished dataset (a folder with {MANIFEST})"


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """The content of `dataset.json`; a folder is a finished dataset only with it, and the file has a hash of
    itself, so that no word of it changes unnoticed.

    fingerprint: identity of the content (`content_fingerprint`, or what else the writer derives it from).
    buckets: what the numbers in the index's `bucket` column mean: ("image", "video") for raw datasets,
    latent shapes [M, C, T, H, W] for latent ones.
    classes: class names; a label is a position in it.
    files: SHA-256 of `index.npy` and the like, as returned by `write_index`.
    blocks: of each `.npy` file among these the CRC-32 of every MiB (`data.dataset.blocks`), which `write`
    takes of what lies in the folder. Datasets of earlier versions have none.
    extra: JSON values that only this kind of dataset has.
    """

    kind: Literal["raw", "latent"]
    fingerprint: str
    shards: Sequence[ShardRecord]
    classes: tuple[str, ...] = ()
    buckets: tuple[Any, ...] = ()
    files: Mapping[FileName, str] = field(default_factory=dict)
    blocks: Mapping[FileName, Crcs] = field(default_factory=dict, compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Number of samples over all shards."""
        return int(samples_of(self.shards).sum())

    @property
    def bytes(self) -> int:
        """Bytes over all shards."""
        return int(bytes_of(self.shards).sum())

    @property
    def latent_dtype(self) -> np.dtype:
        """Number format of the latents of a cache."""
        return np.dtype(self.extra.get("made_from", {}).get("dtype", "float16")).newbyteorder("<")

    @property
    def format_version(self) -> int:
        """The least version of the format that can say what this dataset holds."""
        is_single = self.kind == "latent" and self.latent_dtype.itemsize != 2
        wider = is_single or not self.files.keys().isdisjoint((CAPTION_SPANS, FEATURES, STILLS))
        return WIDER_VERSION if wider else FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Publish `dataset.json`; call it last, when everything it names is in place."""
        totals = {"samples": self.samples, "bytes": self.bytes, "shards": len(self.shards)}
        tables = [name for name in self.files if name.endswith(".npy") and (folder / name).is_file()]
        blocks = {name: block_crcs(folder / name) for name in tables}
        extra = {name: list(v) if isinstance(v, CountTable) else v for name, v in self.extra.items()}
        content = asdict(replace(self, shards=tuple(self.shards), blocks=blocks, extra=extra))
        whole = {"format_version": self.format_version, "totals": totals, **content}
        write_json(folder / MANIFEST, sealed(json_files.plain(whole)))

    @classmethod
    @garbage.put_off()
    def read(cls, folder: Path, field: str = "source") -> Self:
        """Read `dataset.json`; UserError if absent or written by a newer program, WorkError if damaged.

        field: of a config, which named the folder.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(field, folder, f"{FINISHED}{instead(folder)}")
        if path.stat().st_size < LEAST_BYTES:
            return cls._known(path, json_files.read(path, dict[str, Any]))
        return cls._joined(
            shared(path, lambda data: cls._known(path, json_files.parse(data, dict[str, Any], path))._parts())
        )

    def _parts(self) -> Parsed:
        """Return the parts of which processes share copies."""
        extra = dict(self.extra)
        counts = extra.pop(BUCKET_COUNTS, None)
        return Parsed(json_files.plain(asdict(replace(self, shards=(), extra=extra))), self.shards, counts)

    @classmethod
    def _joined(cls, parts: Parsed) -> Self:
        """Return the manifest that `_parts` gives; these were checked when they were read."""
        manifest = json_files.checked(parts.rest, cls, MANIFEST)
        counts = {} if parts.counts is None else {BUCKET_COUNTS: parts.counts}
        return replace(manifest, shards=parts.shards, extra={**manifest.extra, **counts})

    @classmethod
    def _known(cls, path: Path, raw: dict[str, Any]) -> Self:
        """Check what a file says, and return it."""
        if (version := raw.pop("format_version", None)) is None:
            raise WorkError(f"{path}: not a dataset manifest (it has no format_version)")
        if version not in (FORMAT_VERSION, WIDER_VERSION):
            newer = " (written by a newer longtake)" if isinstance(version, int) and version > 0 else ""
            raise UserError(f"{path}: format_version", version, f"{FORMAT_VERSION} or {WIDER_VERSION}{newer}")
        seal = raw.pop("sha256", None)
        manifest = cls._checked(path, dict(raw))
        if seal is not None:  # earlier versions wrote none
            json_files.require_seal({"format_version": version, **raw, "sha256": seal}, path)
        return manifest

    @classmethod
    def _checked(cls, path: Path, raw: dict[str, Any]) -> Self:
        totals = raw.pop("totals", None)
        if missing := {f.name for f in fields(cls)} - raw.keys() - {"blocks"}:
            raise WorkError(f"{path}: missing entries: {', '.join(sorted(missing))}")
        manifest = json_files.checked(raw, cls, path)
        json_files.checked(raw, Latent if manifest.kind == "latent" else Raw, path)
        if manifest.kind == "latent":
            manifest._require_consistent(path)
        if totals != {"samples": manifest.samples, "bytes": manifest.bytes, "shards": len(manifest.shards)}:
            raise WorkError(f"{path}: totals do not match the shards it lists")
        return manifest

    def _require_consistent(self, path: Path) -> None:
        """Raise WorkError unless the parts of a cache's manifest agree on shards, shapes and channels."""
        counts = self.extra.get(BUCKET_COUNTS)
        table = (len(self.shards), len(self.buckets))
        if counts is not None and (len(counts) != table[0] or any(len(row) != table[1] for row in counts)):
            raise WorkError(
                f"{path}: extra.bucket_counts is no table of {table[0]} shards by {table[1]} shapes"
            )
        features = self.extra.get("features")
        if FEATURES in self.files and (not features or len(features["shapes"]) != len(self.buckets)):
            raise WorkError(f"{path}: extra.features has no shape for each of {table[1]} buckets")
        channels = {shape[1] for shape in self.buckets} | {
            len(self.extra["statistics"][name]) for name in ("mean", "std")
        }
        if len(channels) > 1:
            raise WorkError(f"{path}: buckets and extra.statistics are of different numbers of channels")

    def require_labels(self, labels: np.ndarray, place: object) -> None:
        """Raise WorkError if one of these labels of an index stands for no class. place: of the dataset."""
        if self.classes and labels.max(initial=-1) >= len(self.classes):
            known = counted(len(self.classes), "class", "classes")
            raise WorkError(f"{place}: its index has the label {labels.max()}, and there are {known}")


def content_fingerprint(
    kind: str, shards: Sequence[ShardRecord], files: Mapping[str, str], **more: Any
) -> str:
    """Return the identity of a dataset's bytes: the hash of its tars' and indices' hashes and `more` JSON.

    `crc.npy` is left out: it follows from the others, and a dataset that had none is the same without it.
    """
    hashes = [shard.sha256 for shard in shards]
    counted = {name: digest for name, digest in files.items() if name != CRC}
    return fingerprint({"kind": kind, "version": FORMAT_VERSION, "shards": hashes, "files": counted, **more})


def read_sidecar(path: Path, dtype: np.dtype, manifest: DatasetManifest) -> Table:
    """Map a file that stands row by row beside the index: (samples,) of `dtype`.

    WorkError if it is missing, damaged, or of other rows.
    """
    return open_table(path, dtype, manifest.samples, manifest.blocks.get(path.name, ""), "not readable")
