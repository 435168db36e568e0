"""The loader of latent caches: equal steps, whatever the number of ranks or the micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.batch import Batch, Condition
from core.draws import Draws
from core.errors import UserError, WorkError
from data.latents import LatentReader, are_finite, compare
from data.order import BucketRows, count_buckets
from data.steps import LoaderConfig, Share, StepPlan, Stock, read_ahead
from data.texts import TextReader, has_text

if TYPE_CHECKING:
    from core.distributed import World
    from data.index import Dataset


class LatentLoader:
    """Yields, for each optimizer step, the list of this rank's micro-batches of latent moments.

    dataset: a latent cache, or several of one encoder.  mix: share of the groups of each; () follows their
    numbers of samples.
    micro_batch: most samples a rank takes at once; 0 is its whole share of a group.
    patch: latent positions (frames, rows, columns) of one token, for the cost of a sample.
    Batch.x is (b, M, C, T, H, W) float16, pinned where the world's device is CUDA. Of a cache that also holds
    its samples mirrored, a keyed draw takes half of them so. text: whether batches carry the text of a cache
    that holds some, padded to its longest.
    """

    def __init__(
        self,
        dataset: Dataset | Sequence[Dataset],
        config: LoaderConfig,
        world: World,
        seed: int,
        micro_batch: int = 0,
        *,
        patch: tuple[int, int, int] = (1, 2, 2),
        text: bool = True,
        mix: Sequence[float] = (),
    ) -> None:
        self.datasets = list(dataset) if isinstance(dataset, Sequence) else [dataset]
        require_one_encoder(self.datasets)
        self.config, self.seed, self._pin = config, seed, world.device.type == "cuda"
        self._readers = [LatentReader(d.folder, d.manifest, d.index, d.open_shard) for d in self.datasets]
        self._texts = [
            TextReader(d.folder, d.manifest, reader.parts) if text and has_text(d.manifest) else None
            for d, reader in zip(self.datasets, self._readers, strict=True)
        ]
        self._lock = Lock()
        stocks = [s for number, d in enumerate(self.datasets) for s in latent_stocks(d, number, patch)]
        self.plan = StepPlan(
            stocks,
            config,
            rank=world.rank,
            ranks=world.size,
            seed=seed,
            micro_batch=micro_batch,
            mix=mix,
        )

    def __call__(self, first_step: int) -> Iterator[list[Batch]]:
        """The micro-batches of steps first_step, first_step + 1, ... without end, read ahead by a thread."""
        return read_ahead(self.load, first_step, self.config.prefetch)

    def load(self, step: int) -> list[Batch]:
        """The micro-batches of one step; safe from several threads, one of which works at a time."""
        with self._lock:
            whole = self.plan.order_hash(step, self._ids)
            return [self._batch(step, share, whole) for share in self.plan.shares(step)]

    def largest(self) -> list[Batch]:
        """Micro-batches that take as much memory as any; none where all are of one shape."""
        with self._lock:
            return [self._batch(0, share) for share in self.plan.largest()]

    def _ids(self, stock: int, rows: np.ndarray) -> np.ndarray:
        return self._readers[self.plan.stocks[stock].dataset].entries(rows)["id"]

    def _batch(self, step: int, share: Share, order_hash: int | None = None) -> Batch:
        number = self.plan.stocks[share.stock].dataset
        dataset, rows = self.datasets[number], share.rows
        reader = self._readers[number]
        entries = reader.entries(rows)
        ids, positions = torch.from_numpy(entries["id"].astype(np.int64)), torch.from_numpy(share.positions)
        flipped = draw_flips(Draws(self.seed, step, ids, positions)) if reader.has_flips else None
        x = reader.gather(rows, flipped=flipped, pin=self._pin)
        finite = are_finite(x).numpy()
        if not finite.all():
            name = dataset.manifest.shards[entries["shard"][~finite][0]].name
            raise WorkError(f"{dataset.folder / name}: damaged, sample {rows[~finite][0]} is not finite")
        return Batch(
            x=x,
            id=ids,
            position=positions,
            weight=torch.from_numpy((entries["size"] > 0).astype(np.float32)),
            condition=self._condition(number, rows, entries),
            bucket=self.plan.stocks[share.stock].name,
            order_hash=order_hash,
        )

    def _condition(self, number: int, rows: np.ndarray, entries: np.ndarray) -> Condition:
        label = torch.from_numpy(entries["label"].astype(np.int64))
        reader = self._texts[number]
        if reader is None:
            return Condition(label=label)
        tokens, lengths = reader.gather(rows, entries["shard"], pin=self._pin)
        return Condition(label=label, text=tokens, text_length=lengths)


def draw_flips(draws: Draws) -> np.ndarray:
    """(B,) bool: which samples are mirrored left to right, half of them."""
    return (draws.uniform("flip") < 0.5).numpy()


def latent_stocks(dataset: Dataset, number: int, patch: tuple[int, int, int]) -> list[Stock]:
    """The buckets of a latent cache: one for each shape (M, C, T, H, W)."""
    manifest = dataset.manifest
    starts = shard_starts(dataset)
    column, shapes = dataset.index["bucket"], [tuple(shape) for shape in manifest.buckets]
    recorded = manifest.extra.get("bucket_counts")  # spares reading the whole index, 300 MB for 10^7 samples
    counts = np.array(recorded) if recorded else count_buckets(column, starts, len(shapes))
    stocks = []
    for bucket, (_, channels, frames, height, width) in enumerate(shapes):
        tokens = int(np.prod([-(-a // b) for a, b in zip((frames, height, width), patch, strict=True)]))
        name = f"latents {channels}x{frames}x{height}x{width}"
        rows = BucketRows(column, starts, bucket, counts[:, bucket])
        stocks.append(Stock(name, rows, tokens, frames > 1, number))
    return stocks


def shard_starts(dataset: Dataset) -> np.ndarray:
    """(shards + 1,) the first row of every shard, and the number of rows."""
    return np.cumsum([0, *(shard.samples for shard in dataset.manifest.shards)])


def require_one_encoder(datasets: Sequence[Dataset]) -> None:
    """UserError unless all are latent caches of one encoder, with one table of classes."""
    for dataset in datasets:
        if dataset.manifest.kind != "latent":
            raise UserError(
                "source", dataset.folder, "a latent cache; this is a raw dataset, encode it first"
            )
    first = datasets[0]
    for other in datasets[1:]:
        pairs = [
            {
                "encoder": d.manifest.extra["made_from"]["encoder"],
                "text": d.manifest.extra["made_from"].get("text"),
                "classes": list(d.manifest.classes),
            }
            for d in (first, other)
        ]
        if (differs := compare(*pairs)) is not None:
            field, a, b = differs
            raise UserError(
                f"{first.folder} and {other.folder} cannot be mixed: {field} is {a} here and {b} there"
            )
