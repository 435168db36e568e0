"""Embed captions: once each while a cache is encoded, or when training online asks for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.draws import Draws
from core.progress import counted, say
from core.reading.side_threads import all_threads
from data.dataset.faults import Fault, attempt
from data.dataset.index import Dataset
from data.latent.caption_table import text_of
from data.latent.packs import LATENT_DTYPE, Text
from data.order.caption_choice import ANY_CAPTION, CaptionConfig, choose, uniforms
from data.raw.annotations.captions import carrier, combined
from data.raw.annotations.several import Caption

KEPT_BYTES = 1 << 28  # bytes of embeddings that a later batch may need again
CAPTIONS = 32  # embedded at once while training
NOT_FINITE = Fault("text", "its text is not finite in float16")


class CaptionEncoder(Protocol):
    """Embeds captions in at most `tokens` tokens of width D."""

    tokens: int
    width: int

    def encode_captions(self, captions: list[str]) -> list[Tensor]:
        """Embed captions: for each, (its tokens, D) float32 on the CPU."""
        ...

    def count_tokens(self, captions: list[str]) -> list[int]:
        """Count the tokens of each caption if none were cut off."""
        ...


@dataclass(frozen=True)
class CutCaptions:
    """Captions that were longer than the encoder takes. longest: tokens of the longest caption, uncut."""

    captions: int = 0
    cut: int = 0
    longest: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int], limit: int) -> CutCaptions:
        """Count captions with these numbers of tokens."""
        return cls(len(lengths), sum(length > limit for length in lengths), max(lengths, default=0))

    def __add__(self, other: CutCaptions) -> CutCaptions:
        """Add the counts of two shards."""
        longest = max(self.longest, other.longest)
        return CutCaptions(self.captions + other.captions, self.cut + other.cut, longest)


class ShardTexts:
    """The embedded captions of one shard, a pack at a time, each distinct one once in the whole part.

    A sample without caption has no tokens.  cut: counts the captions of the packs so far.
    """

    def __init__(self, dataset: Dataset, encoder: CaptionEncoder, batch: int) -> None:
        self._dataset, self._encoder, self._batch = dataset, encoder, batch
        self._places: dict[str, tuple[int, int] | None] = {}  # None: it is not finite
        self._lengths: dict[str, int] = {}
        self._rows = 0
        self.cut = CutCaptions()

    def pack(self, rows: list[int]) -> tuple[Text, dict[int, Fault]]:
        """Return the text of `rows`, and why some of them have none that could be used.

        Its tokens are those of the captions that no pack had before.
        """
        captions, refused = read_captions(self._dataset, rows)
        texts = [caption.text for found in captions.values() for caption in found]
        tokens = self._embed([text for text in dict.fromkeys(texts) if text not in self._places])
        for row, found in captions.items():
            if any(self._places[caption.text] is None for caption in found):
                refused[row] = NOT_FINITE
        kept = [captions[row] for row in rows if row not in refused]
        lengths = [self._lengths[caption.text] for found in kept for caption in found]
        self.cut += CutCaptions.of(lengths, self._encoder.tokens)
        placed = [[(*(self._places[c.text] or (0, 0)), c.name, c.weight) for c in found] for found in kept]
        return text_of(tokens, placed), refused

    def _embed(self, new: list[str]) -> np.ndarray:
        """Return the tokens of captions that are met for the first time; where they lie is noted."""
        tokens = [np.zeros((0, self._encoder.width), LATENT_DTYPE)]
        self._lengths |= zip(new, self._encoder.count_tokens(new) if new else [], strict=True)
        for text, embedding in zip(new, embed(self._encoder, new, self._batch), strict=True):
            self._places[text] = None
            if np.isfinite(embedding).all():
                self._places[text] = (self._rows, len(embedding))
                self._rows += len(embedding)
                tokens.append(embedding)
        return np.concatenate(tokens)


class RowTexts:
    """Captions of a raw dataset's rows, embedded when they are asked for and padded to the encoder's limit.

    choice: which of several captions are drawn.  What was embedded lately is kept. Safe from several threads.
    """

    def __init__(
        self, dataset: Dataset, encoder: CaptionEncoder, choice: CaptionConfig = ANY_CAPTION
    ) -> None:
        self._dataset, self._encoder, self._choice, self._lock = dataset, encoder, choice, Lock()
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._told: set[str] = set()

    def gather(
        self,
        rows: Sequence[int],
        *,
        draws: Draws | None = None,
        skip: Collection[int] = (),
        pin: bool = False,
    ) -> tuple[Tensor, Tensor, dict[int, Fault]]:
        """Return tokens (n, L, D) float16, zeros behind the last, their numbers (n,) int64, and {row: fault}.

        Faults are of rows whose text cannot be used, which have no tokens. skip: rows that are not read and
        have none. draws: of these samples, by which one of several captions is taken; None takes the first.
        """
        found, refused = read_captions(self._dataset, [row for row in rows if row not in skip])
        captions = self._drawn(rows, found, draws)
        shape = (len(rows), self._encoder.tokens, self._encoder.width)
        out, lengths = torch.zeros(shape, dtype=torch.float16, pin_memory=pin), torch.zeros(len(rows)).long()
        with self._lock:
            self._embed([text for text in dict.fromkeys(captions) if text])
            for place, (row, text) in enumerate(zip(rows, captions, strict=True)):
                if not text:
                    continue
                if not np.isfinite(self._known[text]).all():
                    refused[row] = NOT_FINITE
                    continue
                lengths[place] = len(self._known[text])
                out[place, : len(self._known[text])] = torch.from_numpy(self._known[text])
            while self._bytes > KEPT_BYTES:
                self._bytes -= self._known.popitem(last=False)[1].nbytes
        return out, lengths, refused

    def _drawn(
        self, rows: Sequence[int], found: dict[int, tuple[Caption, ...]], draws: Draws | None
    ) -> list[str]:
        """Return the caption of each row, "" for none."""
        several = any(len(captions) > 1 for captions in found.values()) or not self._choice.takes_all
        u = uniforms(draws) if several and draws is not None else [0.0] * len(rows)
        chosen = []
        for row, number in zip(rows, u, strict=True):
            captions = found.get(row, ())
            weights = self._choice.weigh([c.name for c in captions], [c.weight for c in captions])
            at = choose(weights, number)
            if captions and at is None:
                self._tell(f"warning: sample {row} has no caption that {self._choice} takes", "choice")
            chosen.append("" if at is None else captions[at].text)
        return chosen

    def _tell(self, line: str, kind: str) -> None:
        """Say the first line of a kind."""
        if kind not in self._told:
            self._told.add(kind)
            say(f"{line} (said once)")

    def _embed(self, wanted: list[str]) -> None:
        """Embed those of `wanted` that are not known yet, and mark all of them as the newest."""
        new = [text for text in wanted if text not in self._known]
        limit = self._encoder.tokens
        for text, length in zip(new, self._encoder.count_tokens(new) if new else [], strict=True):
            if length > limit:
                line = f"warning: a caption of {counted(length, 'token')} is cut to {limit}: {text[:40]!r}"
                self._tell(line, "cut")
        with all_threads():  # on a CPU other numbers of threads may give other bits
            self._known |= zip(new, embed(self._encoder, new, CAPTIONS), strict=True)
        self._bytes += sum(self._known[text].nbytes for text in new)
        for text in wanted:
            self._known.move_to_end(text)


def embed(encoder: CaptionEncoder, captions: Sequence[str], batch: int) -> list[np.ndarray]:
    """Embed captions, `batch` at a time: for each, (its tokens, D) float16."""
    found: list[Tensor] = []
    for start in range(0, len(captions), batch):
        found += encoder.encode_captions(list(captions[start : start + batch]))
    return [embedding.to(torch.float16).numpy() for embedding in found]


def read_captions(
    dataset: Dataset, rows: Sequence[int]
) -> tuple[dict[int, tuple[Caption, ...]], dict[int, Fault]]:
    """Return the captions of each raw sample; and of those that have none of use, why."""
    captions: dict[int, tuple[Caption, ...]] = {}
    refused: dict[int, Fault] = {}
    for row in rows:
        read = attempt(partial(captions_of_row, dataset, row), "text", f"sample {row}")
        if isinstance(read, Fault):
            refused[row] = read
        elif read[1]:
            refused[row] = Fault("text", read[1])
        else:
            captions[row] = read[0]
    return captions, refused


def captions_of_row(dataset: Dataset, row: int) -> tuple[tuple[Caption, ...], str]:
    """Return the captions of a raw sample, and what is wrong with them, "" for nothing.

    Weights are rounded to float32, as a cache stores them, so that both draw alike.
    """
    members = dataset.read(row)
    annotation = combined(
        {suffix: members[suffix] for suffix in members if carrier(suffix) in ("json", "text")}
    )
    captions = annotation.captions or ((Caption(annotation.text),) if annotation.text else ())
    rounded = tuple(c._replace(weight=float(np.float32(c.weight))) for c in captions)
    return rounded, annotation.refused[1] if annotation.refused else ""
