"""Captions in a latent cache: embedded once while encoding, gathered into padded batches for training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.errors import WorkError
from data.dataset.blocks import Table
from data.dataset.index import Dataset
from data.dataset.schema import TEXT, TEXT_DTYPE, DatasetManifest, read_sidecar
from data.latent.checksums import SampleCrcs
from data.latent.packs import LATENT_DTYPE, TEXT_RANGE_DTYPE, Text
from data.latent.parts import Parts
from data.latent.reading import are_finite
from data.raw.annotations.captions import carrier, combined

KEPT_BYTES = 1 << 28  # of embeddings that a later batch may need again
CAPTIONS = 32  # embedded at once while training
NOT_FINITE = "its text is not finite in float16"


class CaptionEncoder(Protocol):
    """What turns captions into embeddings of at most `tokens` tokens of width D."""

    tokens: int
    width: int

    def encode_captions(self, captions: list[str]) -> list[Tensor]:
        """(its tokens, D) float32 on the CPU of each caption."""
        ...


class ShardTexts:
    """The embedded captions of one shard, a pack at a time, each distinct one once in the whole part.

    A sample without caption has no tokens.
    """

    def __init__(self, dataset: Dataset, encoder: CaptionEncoder, batch: int) -> None:
        self._dataset, self._encoder, self._batch = dataset, encoder, batch
        self._places: dict[str, tuple[int, int] | None] = {"": (0, 0)}  # None: it is not finite
        self._rows = 0

    def pack(self, rows: list[int]) -> tuple[Text, dict[int, str]]:
        """The text of `rows`, and why some of them have none that could be used: {row: reason}.

        Its tokens are those of the captions that no pack had before.
        """
        captions, refused = read_captions(self._dataset, rows)
        new = list(dict.fromkeys(text for text in captions.values() if text not in self._places))
        tokens = [np.zeros((0, self._encoder.width), LATENT_DTYPE)]
        for text, embedding in zip(new, embed(self._encoder, new, self._batch), strict=True):
            self._places[text] = None
            if np.isfinite(embedding).all():
                self._places[text] = (self._rows, len(embedding))
                self._rows += len(embedding)
                tokens.append(embedding)
        refused |= {row: NOT_FINITE for row, text in captions.items() if self._places[text] is None}
        ranges = [self._places[captions[row]] for row in rows if row not in refused]
        return Text(np.concatenate(tokens), np.array(ranges, TEXT_RANGE_DTYPE).reshape(-1, 2)), refused


class RowTexts:
    """Captions of a raw dataset's rows, embedded when they are asked for and padded to the encoder's limit.

    What was embedded lately is kept. Safe from several threads.
    """

    def __init__(self, dataset: Dataset, encoder: CaptionEncoder) -> None:
        self._dataset, self._encoder, self._lock = dataset, encoder, Lock()
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def gather(
        self, rows: Sequence[int], *, skip: Collection[int] = (), pin: bool = False
    ) -> tuple[Tensor, Tensor, dict[int, str]]:
        """Tokens (n, L, D) float16, zeros behind the last, their numbers (n,) int64, and {row: reason} of
        those whose text cannot be used, which have no tokens. skip: rows that are not read and have none."""
        captions, refused = read_captions(self._dataset, [row for row in rows if row not in skip])
        shape = (len(rows), self._encoder.tokens, self._encoder.width)
        out, lengths = torch.zeros(shape, dtype=torch.float16, pin_memory=pin), torch.zeros(len(rows)).long()
        with self._lock:
            self._embed([text for text in dict.fromkeys(captions.values()) if text])
            for place, row in enumerate(rows):
                if not (text := captions.get(row)):
                    continue
                if not np.isfinite(self._known[text]).all():
                    refused[row] = NOT_FINITE
                    continue
                lengths[place] = len(self._known[text])
                out[place, : len(self._known[text])] = torch.from_numpy(self._known[text])
            while self._bytes > KEPT_BYTES:
                self._bytes -= self._known.popitem(last=False)[1].nbytes
        return out, lengths, refused

    def _embed(self, wanted: list[str]) -> None:
        """Let all of `wanted` be known, as the newest."""
        new = [text for text in wanted if text not in self._known]
        self._known |= zip(new, embed(self._encoder, new, CAPTIONS), strict=True)
        self._bytes += sum(self._known[text].nbytes for text in new)
        for text in wanted:
            self._known.move_to_end(text)


def embed(encoder: CaptionEncoder, captions: Sequence[str], batch: int) -> list[np.ndarray]:
    """(its tokens, D) float16 of each caption, `batch` at a time."""
    found: list[Tensor] = []
    for start in range(0, len(captions), batch):
        found += encoder.encode_captions(list(captions[start : start + batch]))
    return [embedding.to(torch.float16).numpy() for embedding in found]


def read_captions(dataset: Dataset, rows: Sequence[int]) -> tuple[dict[int, str], dict[int, str]]:
    """The caption of each raw sample, "" for none; and of those that have none of use, why."""
    captions, refused = {}, {}
    for row in rows:
        text, problem = read_caption(dataset, row)
        if problem:
            refused[row] = problem
        else:
            captions[row] = text
    return captions, refused


def read_caption(dataset: Dataset, row: int) -> tuple[str, str]:
    """The caption of a raw sample, "" for none, and what is wrong with it, "" for nothing."""
    members = dataset.read(row)
    annotation = combined(
        {suffix: members[suffix] for suffix in members if carrier(suffix) in ("json", "text")}
    )
    return annotation.text, annotation.refused[1] if annotation.refused else ""


class TextReader:
    """Gathers the text of samples from the parts of a cache.

    width: D of a token.  longest: tokens of the longest caption, of this cache or of those mixed with it, to
    which all are padded, so that every batch has one shape on every rank.
    verify: as `data.latent.reading.LatentReader` takes it.
    """

    def __init__(
        self,
        folder: Path,
        manifest: DatasetManifest,
        parts: Parts,
        longest: int = 0,
        *,
        verify: bool = False,
    ) -> None:
        self.folder, self._manifest, self._parts = folder, manifest, parts
        self.longest, self.width = text_shape(manifest)
        self.longest = max(self.longest, longest)
        self._texts = read_texts(folder, manifest)
        self._crcs = SampleCrcs(folder, manifest) if verify else None

    def gather(self, rows: np.ndarray, shards: np.ndarray, *, pin: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens (n, longest, D) float16, zeros behind the last, and their numbers (n,) int64.

        shards: (n,) where each row lies. WorkError for text outside of its part or that is not finite.
        """
        out = torch.zeros((len(rows), self.longest, self.width), dtype=torch.float16, pin_memory=pin)
        entries = self._texts.take(rows)
        for place, (shard, (offset, tokens)) in enumerate(
            zip(shards.tolist(), entries.tolist(), strict=True)
        ):
            part, size = self._parts.mapped(shard), tokens * self.width * LATENT_DTYPE.itemsize
            if offset + size > len(part) or tokens > self.longest:
                raise WorkError(f"{self.folder / TEXT}: row {rows[place]} points outside of its part")
            if tokens:
                found = part[offset : offset + size].view(torch.uint8).clone().view(torch.float16)
                out[place, :tokens] = found.view(tokens, self.width)
        if self._crcs is not None:
            lengths = entries["tokens"].tolist()
            self._crcs.require_texts(rows, shards, [t[:n] for t, n in zip(out.numpy(), lengths, strict=True)])
        finite = are_finite(out).numpy()
        if not finite.all():
            name = self._manifest.shards[shards[~finite][0]].name
            raise WorkError(f"{self.folder / name}: damaged, the text of {rows[~finite][0]} is not finite")
        return out, torch.from_numpy(entries["tokens"].astype(np.int64))


def text_shape(manifest: DatasetManifest) -> tuple[int, int]:
    """(L, D) of the text of each sample in a batch: the longest caption of the cache, width of a token."""
    return max(1, int(manifest.extra["longest_text"])), int(manifest.extra["made_from"]["text"]["width"])


def has_text(manifest: DatasetManifest) -> bool:
    """Whether a cache holds embedded captions."""
    return TEXT in manifest.files


def read_texts(folder: Path, manifest: DatasetManifest) -> Table:
    """`text.npy`: (samples,) TEXT_DTYPE, mapped."""
    return read_sidecar(folder / TEXT, TEXT_DTYPE, manifest)
