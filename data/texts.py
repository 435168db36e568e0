"""Captions in a latent cache: embedded once while encoding, gathered into padded batches for training."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.errors import WorkError
from data.captions import combined
from data.index import Dataset
from data.latents import LatentReader, are_finite
from data.packs import LATENT_DTYPE, TEXT_RANGE_DTYPE, Text
from data.schema import TEXT, TEXT_DTYPE, DatasetManifest, read_sidecar

KEPT_BYTES = 1 << 28  # of embeddings that a later pack of the same shard may need again


class CaptionEncoder(Protocol):
    """What turns captions into embeddings of at most `tokens` tokens of width D."""

    tokens: int
    width: int

    def encode_captions(self, captions: list[str]) -> list[Tensor]:
        """(its tokens, D) float32 on the CPU of each caption."""
        ...


class ShardTexts:
    """The embedded captions of one shard, a pack at a time; a sample without caption has no tokens."""

    def __init__(self, dataset: Dataset, encoder: CaptionEncoder, batch: int) -> None:
        self._dataset, self._encoder, self._batch = dataset, encoder, batch
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def pack(self, rows: list[int]) -> tuple[Text, dict[int, str]]:
        """The text of `rows`, and why some of them have none that could be used: {row: reason}."""
        captions, refused = {}, {}
        for row in rows:
            captions[row], problem = read_caption(self._dataset, row)
            if problem:
                refused[row] = problem
        wanted = list(dict.fromkeys(text for text in captions.values() if text))
        self._embed([text for text in wanted if text not in self._known])
        start, places, tokens = 0, {"": (0, 0)}, []
        for text in wanted:
            embedding = self._known[text]
            if not np.isfinite(embedding).all():
                refused |= dict.fromkeys(
                    (row for row in rows if captions[row] == text), "its text is not finite in float16"
                )
                continue
            places[text] = (start, len(embedding))
            tokens.append(embedding)
            start += len(embedding)
        self._forget()
        ranges = [places[captions[row]] for row in rows if row not in refused]
        empty = np.zeros((0, self._encoder.width), LATENT_DTYPE)
        return Text(
            np.concatenate([empty, *tokens]), np.array(ranges, TEXT_RANGE_DTYPE).reshape(-1, 2)
        ), refused

    def _embed(self, captions: list[str]) -> None:
        for start in range(0, len(captions), self._batch):
            some = captions[start : start + self._batch]
            for text, embedding in zip(some, self._encoder.encode_captions(some), strict=True):
                self._known[text] = embedding.to(torch.float16).numpy()
                self._bytes += self._known[text].nbytes

    def _forget(self) -> None:
        """Let the oldest go; what was known is a function of the shard alone, so results are too."""
        while self._bytes > KEPT_BYTES:
            self._bytes -= self._known.popitem(last=False)[1].nbytes


def read_caption(dataset: Dataset, row: int) -> tuple[str, str]:
    """The caption of a raw sample, "" for none, and what is wrong with it, "" for nothing."""
    members = dataset.read(row)
    annotation = combined({suffix: members[suffix] for suffix in ("json", "txt") if suffix in members})
    return annotation.text, annotation.refused[1] if annotation.refused else ""


class TextReader:
    """Gathers the text of samples from the parts of a cache.

    width: D of a token.  longest: tokens of the longest caption, to which all are padded, so that every batch
    has one shape on every rank.
    """

    def __init__(self, folder: Path, manifest: DatasetManifest, parts: LatentReader) -> None:
        self.folder, self._manifest, self._parts = folder, manifest, parts
        self.longest, self.width = text_shape(manifest)
        self._texts = read_texts(folder, manifest)

    def gather(self, rows: np.ndarray, shards: np.ndarray, *, pin: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens (n, longest, D) float16, zeros behind the last, and their numbers (n,) int64.

        shards: (n,) where each row lies. WorkError for text outside of its part or that is not finite.
        """
        out = torch.zeros((len(rows), self.longest, self.width), dtype=torch.float16, pin_memory=pin)
        entries = self._texts[rows]
        for place, (shard, (offset, tokens)) in enumerate(
            zip(shards.tolist(), entries.tolist(), strict=True)
        ):
            part, size = self._parts.part(shard), tokens * self.width * LATENT_DTYPE.itemsize
            if offset + size > len(part) or tokens > self.longest:
                raise WorkError(f"{self.folder / TEXT}: row {rows[place]} points outside of its part")
            if tokens:
                found = part[offset : offset + size].view(torch.uint8).clone().view(torch.float16)
                out[place, :tokens] = found.view(tokens, self.width)
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


def read_texts(folder: Path, manifest: DatasetManifest) -> np.ndarray:
    """`text.npy`: (samples,) TEXT_DTYPE, mapped."""
    return read_sidecar(folder / TEXT, TEXT_DTYPE, manifest)
