"""The text of samples as training sees it: gathered from the parts of a cache into padded batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.draws import Draws
from core.errors import UserError, WorkError
from core.progress import counted
from data.dataset.blocks import Table, open_table
from data.dataset.manifest import DatasetManifest, read_sidecar
from data.dataset.schema import (
    CAPTION_ROW_DTYPE,
    CAPTION_ROWS,
    CAPTION_SPAN_DTYPE,
    CAPTION_SPANS,
    TEXT,
    TEXT_DTYPE,
)
from data.latent.checksums import SampleCrcs
from data.latent.packs import LATENT_DTYPE
from data.latent.parts import Parts
from data.latent.reading import are_finite
from data.order.caption_choice import ANY_CAPTION, CaptionConfig, choose, uniforms


class Captions:
    """Several captions of each sample of a cache.

    choice: which of them are drawn; UserError where it names none.
    """

    def __init__(self, folder: Path, manifest: DatasetManifest, choice: CaptionConfig = ANY_CAPTION) -> None:
        self._choice, self._names = choice, caption_names(manifest)
        self._spans = read_sidecar(folder / CAPTION_SPANS, CAPTION_SPAN_DTYPE, manifest)
        path, count = folder / CAPTION_ROWS, int(manifest.extra["captions"]["rows"])
        crcs = manifest.blocks.get(CAPTION_ROWS, "")
        self._rows = open_table(path, CAPTION_ROW_DTYPE, count, crcs, "not readable")

    def of(self, row: int) -> np.ndarray:
        """Return all captions of a sample, CAPTION_ROW_DTYPE."""
        first, count = self._spans[row].tolist()
        return self._rows[first : first + count]

    def name(self, entry: np.ndarray) -> str:
        """Return the name of one of them, "" for none."""
        return self._names[int(entry["name"])]

    def drawn(self, rows: np.ndarray, u: list[float]) -> np.ndarray:
        """Draw one caption of each row by u (n,), CAPTION_ROW_DTYPE; all zeros where a row has none."""
        found = np.zeros(len(rows), CAPTION_ROW_DTYPE)
        for place, row in enumerate(rows.tolist()):
            captions = self.of(row)
            if (at := choose(self._weights(captions), u[place])) is not None:
                found[place] = captions[at]
        return found

    def without(self) -> int:
        """Count the samples with captions none of which may be drawn; reads all."""
        spans = np.asarray(self._spans)
        return sum(not any(self._weights(self.of(row))) for row in np.flatnonzero(spans["count"]).tolist())

    def _weights(self, captions: np.ndarray) -> list[float]:
        names = [self._names[number] for number in captions["name"].tolist()]
        return self._choice.weigh(names, captions["weight"].tolist())


class TextReader:
    """Gathers the text of samples from the parts of a cache.

    width: D of a token.  longest: tokens of the longest caption, of this cache or of those mixed with it, to
    which all are padded, so that every batch has one shape on every rank.
    verify: as `data.latent.reading.LatentReader` takes it.  choice: which of several captions are drawn.
    """

    def __init__(
        self,
        folder: Path,
        manifest: DatasetManifest,
        parts: Parts,
        longest: int = 0,
        *,
        verify: bool = False,
        choice: CaptionConfig = ANY_CAPTION,
    ) -> None:
        self.folder, self._manifest, self._parts = folder, manifest, parts
        self.longest, self.width = text_shape(manifest)
        self.longest = max(self.longest, longest)
        self._texts = read_texts(folder, manifest)
        self._captions = Captions(folder, manifest, choice) if has_several(manifest) else None
        self._crcs = SampleCrcs(folder, manifest) if verify else None

    def gather(
        self, rows: np.ndarray, shards: np.ndarray, *, draws: Draws | None = None, pin: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (n, longest, D) float16, zeros behind the last, and their numbers (n,) int64.

        shards: (n,) where each row lies.  draws: of these samples, by which one of several captions is taken;
        None takes the first.  WorkError for text outside of its part or that is not finite.
        """
        out = torch.zeros((len(rows), self.longest, self.width), dtype=torch.float16, pin_memory=pin)
        crcs = None
        if self._captions is None or draws is None:
            entries = self._texts.take(rows)
        else:
            entries = self._captions.drawn(rows, uniforms(draws))
            crcs = entries["crc"]
        self._fill(out, rows, shards, entries["offset"].astype(np.int64), entries["tokens"].astype(np.int64))
        if self._crcs is not None:
            lengths = entries["tokens"].tolist()
            texts = [t[:n] for t, n in zip(out.numpy(), lengths, strict=True)]
            self._crcs.require_texts(rows, shards, texts, crcs)
        finite = are_finite(out).numpy()
        if not finite.all():
            name = self._manifest.shards[shards[~finite][0]].name
            raise WorkError(f"{self.folder / name}: damaged, the text of {rows[~finite][0]} is not finite")
        return out, torch.from_numpy(entries["tokens"].astype(np.int64))

    def _fill(
        self, out: Tensor, rows: np.ndarray, shards: np.ndarray, offsets: np.ndarray, tokens: np.ndarray
    ) -> None:
        """Copy texts into out (n, longest, D), which is all zeros.

        offsets, tokens: (n,) int64, where a row's text begins in its shard, and its length.  A copy for each
        row, straight into its place, takes 0.6 of the time of one gather of tokens for all of them, and 0.2
        to 0.3 of that of one that gathers padding too (256 rows of 768 numbers a token, one thread). The loop
        is 0.4 of 8 us a row; views of all rows and one `torch._foreach_copy_` between them would be 2.
        """
        sizes = tokens * (self.width * LATENT_DTYPE.itemsize)
        outside = (shards >= len(self._parts.lengths)) | (tokens > self.longest)
        outside[~outside] |= (offsets + sizes)[~outside] > self._parts.lengths[shards[~outside]]
        if outside.any():
            raise WorkError(f"{self.folder / TEXT}: row {rows[outside][0]} points outside of its part")
        places = out.view(len(rows), -1).numpy().view(np.uint8)
        for shard in np.unique(shards).tolist():
            part, here = self._parts.mapped(shard).numpy(), np.flatnonzero(shards == shard)
            for place, start, size in np.stack([here, offsets[here], sizes[here]], 1).tolist():
                places[place, :size] = part[start : start + size]


def text_shape(manifest: DatasetManifest) -> tuple[int, int]:
    """Return (L, D) of a sample's text in a batch: the longest caption of the cache, the width of a token."""
    return max(1, int(manifest.extra["longest_text"])), int(manifest.extra["made_from"]["text"]["width"])


def has_text(manifest: DatasetManifest) -> bool:
    """Return whether a cache holds embedded captions."""
    return TEXT in manifest.files


def read_texts(folder: Path, manifest: DatasetManifest) -> Table:
    """Map `text.npy`, (samples,) TEXT_DTYPE."""
    return read_sidecar(folder / TEXT, TEXT_DTYPE, manifest)


def has_several(manifest: DatasetManifest) -> bool:
    """Return whether a cache holds several captions of a sample, or captions with names."""
    return CAPTION_SPANS in manifest.files


def caption_names(manifest: DatasetManifest) -> list[str]:
    """Return the names of captions of a cache, by number; [] where a sample has at most one text."""
    return list(manifest.extra.get("captions", {}).get("names", ()))


def require_names(choice: CaptionConfig, manifests: Iterable[DatasetManifest]) -> None:
    """Raise UserError for a name of `caption_key` that no caption of these caches has."""
    names = {name for manifest in manifests for name in caption_names(manifest)}
    for key in choice.caption_keys:
        if key not in names:
            known = ", ".join(sorted(names - {""})) or "none has a name"
            raise UserError("caption_key", choice.caption_key, f"names of captions: {known}")


def unused_captions(folder: Path, manifest: DatasetManifest, choice: CaptionConfig) -> str:
    """Say how many samples have captions of which the choice takes none; "" where all have one."""
    if choice.takes_all or not has_text(manifest):
        return ""
    if has_several(manifest):
        left = Captions(folder, manifest, choice).without()
    else:
        left = int((read_texts(folder, manifest)["tokens"] > 0).sum()) if choice.caption_keys else 0
    if not left:
        return ""
    samples = counted(left, "sample")
    return f"warning: {samples} of {folder} with text have no caption that {choice} takes, and train without"
