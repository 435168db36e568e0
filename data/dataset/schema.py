"""The files of a dataset folder: their names, and the dtypes of the index and of what stands beside it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from core.files import atomic_file, sha256_file

MANIFEST, INDEX, MEDIA = "dataset.json", "index.npy", "media.npy"
FLIP, TEXT, FEATURES, STILLS, CRC = "flip.npy", "text.npy", "features.npy", "still.npy", "crc.npy"
CAPTION_SPANS, CAPTION_ROWS = "caption_spans.npy", "caption_rows.npy"

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
# Row by row beside the index of a raw dataset, as `data.media.formats.Media` has it; fractions are numerator
# and denominator, duration in seconds. frames: 1 for an image. Rate and duration: 0 for an image file.
MEDIA_DTYPE = np.dtype(
    [
        *(("width", "<u4"), ("height", "<u4"), ("frames", "<u4"), ("fps", "<f4")),
        *(("rate_num", "<u4"), ("rate_den", "<u4"), ("duration_num", "<u8"), ("duration_den", "<u8")),
        ("fields", "u1"),
    ]
)

# Row by row beside the index of a cache with mirrored views: where such a view begins in its part; 0 is none.
FLIP_DTYPE = np.dtype("<u8")
# Likewise of a cache with text: where a caption's embeddings begin in the part, and its tokens; 0 is none.
TEXT_DTYPE = np.dtype([("offset", "<u8"), ("tokens", "<u2")])
# Of a cache with several captions a sample, or captions with names. `caption_spans.npy` stands row by row
# beside the index: where a sample's rows of `caption_rows.npy` begin, and how many it has. These say where
# the embeddings of a caption begin in its part, its tokens, number of its name, its weight, their CRC-32.
CAPTION_SPAN_DTYPE = np.dtype([("first", "<u8"), ("count", "<u2")])
CAPTION_ROW_DTYPE = np.dtype(
    [("offset", "<u8"), ("tokens", "<u2"), ("name", "<u4"), ("weight", "<f4"), ("crc", "<u4")]
)
# Likewise of a cache with a picture encoder's features: where those of a sample begin in its part; 0 is none.
# Those of the mirrored view follow them.
FEATURE_DTYPE = FLIP_DTYPE
# Likewise of a cache with stills: where that of a clip's last picture begins in its part; 0 is none.
STILL_DTYPE = FLIP_DTYPE
# Likewise of what a sample's bytes are: CRC-32 of its range in the tar, of its mirrored view, of its text, of
# the features of both views, of the stills of both. All but the first stand only in a cache that has such
# views, text, features or stills; what a sample does not have has 0.
_CRC_COLUMNS = {
    "sample": {INDEX},
    "flip": {FLIP},
    "text": {TEXT},
    "features": {FEATURES},
    "flip_features": {FEATURES, FLIP},
    "still": {STILLS},
    "flip_still": {STILLS, FLIP},
}

IMAGE_BUCKET, VIDEO_BUCKET = 0, 1
RAW_BUCKETS = ("image", "video")
MEDIA_RULES, FOUND, COLOUR = "media_rules", "found", "colour"  # in `extra` of a raw dataset's manifest
BUCKET_COUNTS = "bucket_counts"  # in that of a cache: samples of each shape in every shard
QUARANTINE = "quarantine.jsonl"  # samples that could not be used, and why
MADE_FROM = "made_from.json"  # in a cache in the making: what all its workers must agree on
LEFT_OUT = "left_out.jsonl"  # in a raw dataset: what `shard` was told to leave out, and why


def write_index(
    folder: Path,
    index: np.ndarray,
    media: np.ndarray | None = None,
    flips: np.ndarray | None = None,
    texts: np.ndarray | None = None,
    crcs: np.ndarray | None = None,
    captions: tuple[np.ndarray, np.ndarray] | None = None,
    features: np.ndarray | None = None,
    stills: np.ndarray | None = None,
) -> dict[str, str]:
    """Publish `index.npy` (and `media.npy`, `flip.npy` and the like); return {file name: SHA-256}.

    index: (samples,) INDEX_DTYPE; the others likewise, each of its own dtype.
    captions: the contents of `caption_spans.npy`, which is like these, and of `caption_rows.npy`.
    """
    given = {
        INDEX: (index, INDEX_DTYPE),
        MEDIA: (media, MEDIA_DTYPE),
        FLIP: (flips, FLIP_DTYPE),
        TEXT: (texts, TEXT_DTYPE),
        FEATURES: (features, FEATURE_DTYPE),
        STILLS: (stills, STILL_DTYPE),
    }
    arrays = {name: (array, dtype) for name, (array, dtype) in given.items() if array is not None}
    if crcs is not None:
        arrays[CRC] = (crcs, crc_dtype(arrays))
    if captions is not None:
        arrays |= {
            CAPTION_SPANS: (captions[0], CAPTION_SPAN_DTYPE),
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
    return np.dtype([(column, "<u4") for column, names in _CRC_COLUMNS.items() if names <= set(files)])
