"""The loader of raw shards: pictures and clips decoded while training, in the same arithmetic order."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from einops import rearrange

from core.batch import Batch, Condition
from core.config.settings import setting
from core.distributed.agreement import tally
from core.draws import Draws
from core.errors import UserError, WorkError, below
from core.progress import counted, say
from data.dataset.faults import Fault, attempt, keep_traceback
from data.dataset.index import shard_starts
from data.dataset.quarantine import allowed_losses
from data.loading.loader import draw_flips
from data.media.formats import DEFAULT_LIMITS, MediaLimits
from data.order.bucket_rows import BucketRows, count_buckets
from data.order.buckets import NO_BUCKET, Bucket, BucketConfig, assign, make_buckets
from data.order.fitting import fitting_lines
from data.order.plan_report import bucket_lines
from data.order.steps import BucketSamples, LoaderConfig, MicroBatchRows, StepPlan
from data.order.usage import usage_lines
from data.raw.decoding import in_part, read_pixels

if TYPE_CHECKING:
    from core.distributed.ranks import World
    from data.dataset.index import Dataset
    from data.dataset.quarantine import Quarantine
    from data.latent.texts import RowTexts


@dataclass(frozen=True, kw_only=True)
class PixelConfig(LoaderConfig):
    """Buckets, decoding, and which samples are taken."""

    cost_quadratic: float = setting(
        0.0, "b in the cost of a sample with S tokens, a S + b S^2; 0 suits convolutions", low=0
    )
    buckets: BucketConfig = setting(
        BucketConfig(), "shapes to which samples are scaled and cropped, and how clips are taken"
    )
    limits: MediaLimits = setting(DEFAULT_LIMITS, "what decoders accept")
    clip: Literal["random", "centre"] = setting("random", "position in the video from which a clip is taken")
    flip: bool = setting(False, "mirror half of the samples horizontally")
    part: Literal["all", "train", "held_out"] = setting("all", "which samples are taken")
    held_out: float = setting(0.05, "share of the samples that part=train leaves out", low=0, high=1)
    threads: int = setting(1, "samples decoded in parallel", low=1, role="work")
    quarantine_budget: float = setting(
        0.01,
        "number of samples that may fail to decode before the run ends: a fraction if below 1, else a count",
        low=0,
        role="work",
    )


@dataclass(frozen=True)
class BucketTable:
    """Buckets, the samples of each, the number of samples that fit none, and what is said of the others."""

    buckets: Sequence[Bucket]
    samples: Sequence[BucketSamples]
    without_bucket: int
    said: tuple[str, ...] = ()


def pixel_table(dataset: Dataset, config: PixelConfig) -> BucketTable:
    """Build the table of buckets of a pixel loader; 256 pixels count as a token."""
    media = np.asarray(dataset.media)
    with below("buckets"):
        buckets = make_buckets(media, config.buckets)
    column = assign(media, buckets, config.buckets)
    without_bucket = int((column == NO_BUCKET).sum())
    column[~in_part(np.asarray(dataset.index["id"]), config.part, config.held_out)] = NO_BUCKET
    said = (
        *fitting_lines(media, column, buckets),
        *usage_lines(media, column, buckets, config.buckets, drawn=config.clip == "random"),
    )
    starts = shard_starts(dataset)
    counts = count_buckets(column, starts, len(buckets))
    samples = [
        BucketSamples(
            f"pixels {bucket}",
            BucketRows(column, starts, number, counts[:, number]),
            max(1, bucket.pixels // 256),
            bucket.frames > 1,
        )
        for number, bucket in enumerate(buckets)
    ]
    return BucketTable(buckets, samples, without_bucket, said)


class PixelLoader:
    """Gives, for each optimizer step, the list of this rank's micro-batches of pixels.

    Batch.x is (b, 3, T, H, W) uint8, of which `Batch.to` makes float32 in [-1, 1]. A sample that cannot be
    decoded, or whose text cannot be used, keeps its slot with weight 0, goes into `quarantine` (shared by the
    ranks) and counts against the budget.  table: which rows are brought to which shapes, instead of what the
    config says.  texts: embeds the captions; None leaves them out.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: PixelConfig,
        world: World,
        seed: int,
        micro_batch: int = 0,
        *,
        quarantine: Quarantine | None = None,
        table: BucketTable | None = None,
        texts: RowTexts | None = None,
    ) -> None:
        if dataset.manifest.kind != "raw":
            raise UserError("source", dataset.folder, "a raw dataset; this is a latent cache")
        if config.verify == "samples":
            expected = (
                f"index or off, since {dataset.place} is raw, and only caches have a CRC-32 of each sample"
            )
            raise UserError("verify", config.verify, expected)
        self.dataset, self.config, self.seed = dataset, config, seed
        self.failed: dict[int, str] = {}
        self._quarantine, self._texts = quarantine, texts
        self._pin = world.device.type == "cuda"
        table = table or pixel_table(dataset, config)
        self.buckets, self.without_bucket, self._said = table.buckets, table.without_bucket, table.said
        self.plan = StepPlan(
            table.samples, config, rank=world.rank, ranks=world.size, seed=seed, micro_batch=micro_batch
        )
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="decode")

    def load(self, step_index: int) -> list[Batch]:
        """Load the micro-batches of one step."""
        whole = self.plan.order_hash(step_index, lambda _, rows: self.dataset.index["id"][rows])
        return [self._batch(step_index, rows, whole) for rows in self.plan.micro_batch_rows(step_index)]

    def largest(self) -> list[Batch]:
        """Return micro-batches that take as much memory as any; none if all are of one shape."""
        return [self._batch(0, rows) for rows in self.plan.largest()]

    def report(self) -> list[str]:
        """Return the plan's lines, and how many samples no bucket takes."""
        extra = f"{counted(self.without_bucket, 'sample')} without a bucket that fits, left out"
        return [*bucket_lines(self.plan), *self._said, *([extra] if self.without_bucket else [])]

    def _batch(self, step_index: int, micro: MicroBatchRows, order_hash: int | None = None) -> Batch:
        entries = np.asarray(self.dataset.index[micro.rows])
        ids, positions = torch.from_numpy(entries["id"].astype(np.int64)), torch.from_numpy(micro.positions)
        draws = Draws(self.seed, step_index, ids, positions)
        where = draws.uniform("clip").tolist() if self.config.clip == "random" else [0.5] * len(ids)
        flips = draw_flips(draws).tolist() if self.config.flip else [False] * len(ids)
        bucket = self.buckets[micro.bucket]
        results = list(self._threads.map(self._read, micro.rows.tolist(), [bucket] * len(ids), where, flips))
        pixels = np.zeros((len(ids), *bucket, 3), np.uint8)
        refused: dict[int, Fault] = {}
        for place, (row, result) in enumerate(zip(micro.rows.tolist(), results, strict=True)):
            if isinstance(result, Fault):
                refused[row] = result
            else:
                pixels[place] = result
        condition = self._condition(micro.rows, entries, refused, draws)
        for row, fault in refused.items():
            self._set_aside(row, fault)
        x = torch.from_numpy(pixels)
        x = x.pin_memory() if self._pin else x
        batch = Batch(
            x=rearrange(x, "b t h w c -> b c t h w"),
            id=ids,
            position=positions,
            weight=torch.tensor([float(row not in refused) for row in micro.rows.tolist()]),
            condition=condition,
            bucket=self.plan.buckets[micro.bucket].name,
            order_hash=order_hash,
        )
        return replace(batch, tally=tally(step_index, batch))

    def _condition(
        self, rows: np.ndarray, entries: np.ndarray, refused: dict[int, Fault], draws: Draws
    ) -> Condition:
        """Return labels and text; rows whose text cannot be used join the refused ones."""
        self.dataset.manifest.require_labels(entries["label"], self.dataset.folder)
        label = torch.from_numpy(entries["label"].astype(np.int64))
        if self._texts is None:
            return Condition(label=label)
        tokens, lengths, unusable = self._texts.gather(
            rows.tolist(), draws=draws, skip=refused, pin=self._pin
        )
        refused |= unusable
        return Condition(label=label, text=tokens, text_length=lengths)

    def _read(self, row: int, bucket: Bucket, where: float, flip: bool) -> np.ndarray | Fault:
        config = self.config

        def read() -> np.ndarray:
            return read_pixels(
                self.dataset, row, bucket, config.buckets, config.limits, where=where, flip=flip
            )

        return attempt(read, "decode", f"sample {row}")

    def _set_aside(self, row: int, fault: Fault) -> None:
        """Record a sample once, and stop the job when there are too many."""
        if row in self.failed:
            return
        self.failed[row] = fault.error
        say(f"sample {row} is set aside: {fault.error}")
        if self._quarantine is not None:
            try:
                keep_traceback(self._quarantine.path.parent, row, fault)
                self._quarantine.add(row, fault.stage, fault.error)
            except OSError as full:  # a full disk; every later start meets the sample again
                say(f"warning: sample {row} could not be added to {self._quarantine.path}: {full.strerror}")
        budget, total = self.config.quarantine_budget, len(self.dataset.index)
        if len(self.failed) > allowed_losses(budget, total):
            raise WorkError(
                f"{len(self.failed)} of {counted(total, 'sample')} cannot be used: "
                f"over quarantine_budget={budget}"
            )
