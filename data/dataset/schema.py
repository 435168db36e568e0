"""What a dataset folder holds: dtypes of the index, the manifest `dataset.json`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from core.errors import UserError, WorkError
from core.files import atomic_file, fingerprint, instead, sha256_file, write_json
from data.dataset.blocks import Table, block_crcs, open_table

FORMAT_VERSION = 1
WIDER_VERSION = 2  # of what an earlier version would read wrongly: float32 latents, several captions
MANIFEST, INDEX, MEDIA = "dataset.json", "index.npy", "media.npy"
FLIP, TEXT, CRC = "flip.npy", "text.npy", "crc.npy"
CAPTIONS, CAPTION_ROWS = "captions.npy", "caption_rows.npy"

# One row a sample. offset, size: bytes of the sample inside its tar. label: -1 is none.
INDEX_DTYPE = np.dtype(
    [
        ("id", "<u8"),
        ("shard", "<u4"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("bucket", "<u2"),
        ("label", "<i4"),
    ]
)
# Row by row beside the index of a raw dataset. frames: 1 for an image. fps: 0 for an image file.
MEDIA_DTYPE = np.dtype([("width", "<u4"), ("height", "<u4"), ("frames", "<u4"), ("fps", "<f4")])


# Row by row beside the index of a cache with mirrored views: where such a view begins in its part; 0 is none.
FLIP_DTYPE = np.dtype("<u8")
# Likewise of a cache with text: where a caption's embeddings begin in the part, and its tokens; 0 is none.
TEXT_DTYPE = np.dtype([("offset", "<u8"), ("tokens", "<u2")])
# Of a cache with several captions a sample, or captions with names. `captions.npy` stands row by row beside
# the index: where a sample's rows of `caption_rows.npy` begin, and how many it has. These say where the
# embeddings of a caption begin in its part, its tokens, the number of its name, its weight, their CRC-32.
CAPTION_SPAN_DTYPE = np.dtype([("first", "<u8"), ("count", "<u2")])
CAPTION_ROW_DTYPE = np.dtype(
    [("offset", "<u8"), ("tokens", "<u2"), ("name", "<u4"), ("weight", "<f4"), ("crc", "<u4")]
)
# Likewise of what a sample's bytes are: CRC-32 of its range in the tar, of its mirrored view, of its text.
# The last two stand only in a cache that has such views or text; what a sample does not have has 0.
_CRC_COLUMNS = {"sample": INDEX, "flip": FLIP, "text": TEXT}

IMAGE_BUCKET, VIDEO_BUCKET = 0, 1
RAW_BUCKETS = ("image", "video")
QUARANTINE = "quarantine.jsonl"  # samples that could not be used, and why
MADE_FROM = "made_from.json"  # in a cache in the making: what all its workers must agree on
LEFT_OUT = "left_out.jsonl"  # in a raw dataset: what `shard` was told to leave out, and why
FINISHED = f"a finished dataset (a folder with {MANIFEST})"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One tar of a dataset: file name, number of samples, length in bytes, SHA-256."""

    name: str
    samples: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, samples: int) -> Self:
        """Of a tar that is there, which is hashed."""
        return cls(name=path.name, samples=samples, bytes=path.stat().st_size, sha256=sha256_file(path))


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """The content of `dataset.json`; a folder is a finished dataset only with it.

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
    shards: tuple[ShardRecord, ...]
    classes: tuple[str, ...] = ()
    buckets: tuple[Any, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    blocks: Mapping[str, str] = field(default_factory=dict, compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Number of samples over all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes over all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def latent_dtype(self) -> np.dtype:
        """Number format of the latents of a cache."""
        return np.dtype(self.extra.get("made_from", {}).get("dtype", "float16")).newbyteorder("<")

    @property
    def format_version(self) -> int:
        """The least version of the format that can say what this dataset holds."""
        wider = CAPTIONS in self.files or (self.kind == "latent" and self.latent_dtype.itemsize != 2)
        return WIDER_VERSION if wider else FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Publish `dataset.json`; call it last, when everything it names is in place."""
        totals = {"samples": self.samples, "bytes": self.bytes, "shards": len(self.shards)}
        tables = [name for name in self.files if name.endswith(".npy") and (folder / name).is_file()]
        blocks = {name: block_crcs(folder / name) for name in tables}
        content = {**asdict(self), "blocks": blocks}
        write_json(folder / MANIFEST, {"format_version": self.format_version, "totals": totals, **content})

    @classmethod
    def read(cls, folder: Path, field: str = "source") -> Self:
        """Read `dataset.json`; UserError if absent or written by a newer program, WorkError if damaged.

        field: of a config, which named the folder.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(field, folder, f"{FINISHED}{instead(folder)}")
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            version = raw.pop("format_version")
        except (ValueError, KeyError, AttributeError) as error:
            raise WorkError(f"{path}: not a dataset manifest ({type(error).__name__}: {error})") from None
        if version not in (FORMAT_VERSION, WIDER_VERSION):
            newer = " (written by a newer longtake)" if isinstance(version, int) and version > 0 else ""
            raise UserError(f"{path}: format_version", version, f"{FORMAT_VERSION} or {WIDER_VERSION}{newer}")
        return cls._checked(path, raw)

    @classmethod
    def _checked(cls, path: Path, raw: dict[str, Any]) -> Self:
        totals = raw.pop("totals", None)
        names = {f.name for f in fields(cls)}
        raw.setdefault("blocks", {})
        if raw.keys() != names:
            wrong = ", ".join(sorted(raw.keys() ^ names))
            raise WorkError(f"{path}: missing or unknown entries: {wrong}")
        if raw["kind"] not in ("raw", "latent"):
            raise WorkError(f"{path}: kind={raw['kind']!r}: expected raw or latent")
        try:
            shards = tuple(ShardRecord(**shard) for shard in raw.pop("shards"))
            classes, buckets = tuple(raw.pop("classes")), tuple(raw.pop("buckets"))
        except TypeError as error:
            raise WorkError(f"{path}: {error}") from None
        for shard in shards:
            if Path(shard.name).name != shard.name or shard.name in ("", ".", ".."):
                raise WorkError(f"{path}: shard name {shard.name!r} is not a plain file name")
        manifest = cls(shards=shards, classes=classes, buckets=buckets, **raw)
        if totals != {"samples": manifest.samples, "bytes": manifest.bytes, "shards": len(shards)}:
            raise WorkError(f"{path}: totals {totals} do not match the shards it lists")
        return manifest


def content_fingerprint(
    kind: str, shards: Sequence[ShardRecord], files: Mapping[str, str], **more: Any
) -> str:
    """Identity of a dataset's bytes: over the hashes of its tars and index files, and `more` JSON values.

    `crc.npy` is left out: it follows from the others, and a dataset that had none is the same without it.
    """
    hashes = [shard.sha256 for shard in shards]
    counted = {name: digest for name, digest in files.items() if name != CRC}
    return fingerprint({"kind": kind, "version": FORMAT_VERSION, "shards": hashes, "files": counted, **more})


def write_index(
    folder: Path,
    index: np.ndarray,
    media: np.ndarray | None = None,
    flips: np.ndarray | None = None,
    texts: np.ndarray | None = None,
    crcs: np.ndarray | None = None,
    captions: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, str]:
    """Publish `index.npy` (and `media.npy`, `flip.npy`, `text.npy`, `crc.npy`); return {file name: SHA-256}.

    index: (samples,) INDEX_DTYPE; the others likewise, each of its own dtype.
    captions: the contents of `captions.npy`, which is like these, and of `caption_rows.npy`.
    """
    given = {
        INDEX: (index, INDEX_DTYPE),
        MEDIA: (media, MEDIA_DTYPE),
        FLIP: (flips, FLIP_DTYPE),
        TEXT: (texts, TEXT_DTYPE),
    }
    arrays = {name: (array, dtype) for name, (array, dtype) in given.items() if array is not None}
    if crcs is not None:
        arrays[CRC] = (crcs, crc_dtype(arrays))
    if captions is not None:
        arrays |= {
            CAPTIONS: (captions[0], CAPTION_SPAN_DTYPE),
            CAPTION_ROWS: (captions[1], CAPTION_ROW_DTYPE),
        }
    for name, (array, dtype) in arrays.items():
        if array.dtype != dtype or (array.shape != index.shape and name != CAPTION_ROWS):
            raise ValueError(
                f"{name}: expected {dtype} of shape {index.shape}, got {array.dtype} {array.shape}"
            )
        with atomic_file(folder / name) as file:
            np.save(file, array, allow_pickle=False)
    return {name: sha256_file(folder / name) for name in arrays}


def crc_dtype(files: Collection[str]) -> np.dtype:
    """Return the dtype of a row of `crc.npy` in a dataset that has these files."""
    return np.dtype([(column, "<u4") for column, name in _CRC_COLUMNS.items() if name in files])


def read_sidecar(path: Path, dtype: np.dtype, manifest: DatasetManifest) -> Table:
    """Map a file that stands row by row beside the index: (samples,) of `dtype`.

    WorkError if it is missing, damaged, or of other rows.
    """
    return open_table(path, dtype, manifest.samples, manifest.blocks.get(path.name, ""), "not readable")
