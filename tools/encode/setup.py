"""Set up `encode`: the job, what the cache is made from, and what has to fit the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from core import environment
from core.errors import UserError, below
from core.files import temporaries
from core.progress import say, size
from core.queue.config import QueueConfig
from core.queue.leases import Leases
from core.run.changes import Contents
from data.dataset.index import Dataset
from data.dataset.quarantine import BEYOND, Quarantine
from data.dataset.schema import QUARANTINE
from data.latent.encode_job import Job, begin, recorded_origin
from data.latent.packs import Shape
from data.media.formats import MediaLimits
from data.order.buckets import Bucket, BucketConfig, assign, make_buckets
from data.raw.unfinished import drop_receipts
from models.autoencoder.tiling_config import TilingConfig
from models.precision import AskedPrecision, Precision, compute_in, settle_precision
from tools.encode import origin
from tools.encode.volume import bytes_to_write, report
from tools.runs.encoders import AutoencoderEncoder, CaptionEmbedder, Clock, PictureEncoder

LEASES = ".leases"  # inside the output, until it is complete


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Settings of `encode` by which a worker makes latents, by the same names; see `tools.encode.config`."""

    source: str
    output: Path
    autoencoder: Path
    text_encoder: str
    text_tokens: int
    picture_encoder: str
    picture_patch: int
    store: Literal["moments", "mean"]
    dtype: Literal["float16", "float32"]
    flip: bool
    stills: bool
    buckets: BucketConfig
    batch: int
    tiling: TilingConfig
    precision: AskedPrecision
    threads: int
    decode_threads: int
    device: Literal["auto", "cpu", "cuda"]
    limits: MediaLimits
    quarantine_budget: float


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Settings of `encode` by which workers share the shards, by the same names."""

    overwrite: bool
    processes: int
    queue: QueueConfig
    require_space: bool


Take = Callable[[Job, Contents], Literal["new", "continue", "finished"]]
"""Claims the output of a job (`core.run.claim.claim`), given what its places hold."""


def make_job(config: Encoding, device: torch.device) -> tuple[Job, dict[str, Any]]:
    """Return everything that encoding a shard needs, and what the cache is made from."""
    dataset = Dataset(config.source)
    if dataset.manifest.kind != "raw":
        raise UserError("source", config.source, "a raw dataset; this is a latent cache")
    precision = settled_precision(config, device)
    compute_in(precision)
    clock = Clock()
    encoder = AutoencoderEncoder(config.autoencoder, device, precision, clock)
    with below("tiling"):
        encoder.autoencoder.set_tiling(config.tiling)
    media = np.asarray(dataset.media)
    with below("buckets"):
        buckets = make_buckets(media, config.buckets)
    captions = None
    if config.text_encoder:
        folder = Path(config.text_encoder)
        captions = CaptionEmbedder(folder, config.text_tokens, device, precision, clock)
    column = assign(media, buckets, config.buckets)
    shapes = _latent_shapes(config, encoder, buckets, column)
    pictures, feature_shapes = _picture_encoder(config, device, precision, clock, buckets, shapes)
    quarantine = Quarantine(
        config.output / QUARANTINE, total=len(dataset), budget=config.quarantine_budget, beyond=BEYOND
    )
    job = Job(
        dataset=dataset,
        folder=config.output,
        encoder=encoder,
        buckets=buckets,
        shapes=shapes,
        column=column,
        clips=config.buckets,
        limits=config.limits,
        batch=config.batch,
        quarantine=quarantine,
        flip=config.flip,
        decode_threads=config.decode_threads,
        captions=captions,
        dtype=np.dtype(config.dtype).newbyteorder("<"),
        pictures=pictures,
        feature_shapes=feature_shapes,
        stills=config.stills,
    )
    identity = dict(encoder.identity)
    identity |= {"text": captions.identity} if captions else {}
    identity |= {"pictures": pictures.identity} if pictures else {}
    computation = {
        "device": device.type,
        "precision": precision,
        "batch": config.batch,
        "threads": config.threads,
    }
    return job, origin.describe(job, identity, config.tiling, config.store, config.dtype, computation)


def _latent_shapes(
    config: Encoding, encoder: AutoencoderEncoder, buckets: Sequence[Bucket], column: np.ndarray
) -> list[Shape]:
    """Return (M, C, T, H, W) of each bucket; UserError for moments or stills that there are none of."""
    stored = 2 if config.store == "moments" else 1
    if stored > encoder.moments:
        raise UserError("store", config.store, f"mean, since {config.autoencoder} gives no distribution")
    shapes: list[Shape] = [(stored, *encoder.latent_shape(bucket)) for bucket in buckets]
    if config.stills and not any(shape[2] > 1 for n, shape in enumerate(shapes) if (column == n).any()):
        raise UserError("stills", "true", "false, since no sample is a clip of several latent frames")
    return shapes


def settled_precision(config: Encoding, device: torch.device) -> Precision:
    """Return in which precision to encode: where nothing is asked, what the output was begun with."""
    if config.precision == "auto" and (recorded := recorded_origin(config.output)) is not None:
        begun: Precision = recorded["computation"]["precision"]
        return begun
    return settle_precision(config.precision, device.type, "tf32")


def _picture_encoder(
    config: Encoding,
    device: torch.device,
    precision: Precision,
    clock: Clock,
    buckets: Sequence[Bucket],
    shapes: Sequence[Shape],
) -> tuple[PictureEncoder | None, list[Shape]]:
    """Return what makes features, and their shape in each bucket; None and [] where none are stored."""
    if not config.picture_encoder:
        return None, []
    folder = Path(config.picture_encoder)
    encoder = PictureEncoder(folder, config.picture_patch, device, precision, clock)
    found: list[Shape] = [encoder.feature_shape(b, s[2]) for b, s in zip(buckets, shapes, strict=True)]
    by_latents = dict(zip(shapes, found, strict=True))
    for bucket, shape, features in zip(buckets, shapes, found, strict=True):
        if by_latents[shape] != features:
            expected = f"another: {bucket} has the latents of another bucket, and features of another shape"
            raise UserError("picture_patch", config.picture_patch, expected)
    return encoder, found


def choose_device(name: str, worker: int) -> torch.device:
    """Return the device that `name` (auto, cpu, cuda) means for a worker here; workers take GPUs in turn."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device", name, "cpu, since no CUDA device is visible here")
    return torch.device("cuda", worker % torch.cuda.device_count())


def start(job: Job, made_from: dict[str, Any], sharing: Sharing, take: Take) -> bool:
    """Claim the output with `take` and say what is to be done; False if it is finished.

    UserError if it is of another source or encoder, or what remains does not fit the disk.
    """
    if sharing.overwrite:
        _require_alone(job.folder, sharing.queue.timeout_s)
    if take(job, origin.contents(job.folder, made_from)) == "finished":
        origin.require_same(job, made_from)
        clear(job.folder)
        return False
    begin(job, made_from)
    left = sorted(set(range(len(job.dataset.manifest.shards))) - job.finished())
    for line in report(job, left):
        say(line)
    needed, free = bytes_to_write(job, left), shutil.disk_usage(job.folder).free
    if needed > free and sharing.require_space:
        expected = f"a disk with {size(needed)} free, this one has {size(free)}; or require_space=false"
        raise UserError("output", job.folder, expected)
    job.quarantine.check()
    return True


def clear(output: Path) -> None:
    """Remove what only an unfinished cache needs, and what killed workers left.

    A worker that is still at something here finds that the cache is complete (`encode`).
    """
    for left in temporaries(output):
        left.unlink(missing_ok=True)
    drop_receipts(output)
    shutil.rmtree(output / LEASES, ignore_errors=True)


def _require_alone(output: Path, timeout_s: float) -> None:
    """Raise UserError if other workers are at this output, or may be soon; timeout_s: of their leases."""
    if environment.place().size > 1:
        raise UserError("overwrite", "true", "false, since several ranks would remove each other's work")
    folder = output / LEASES
    states = Leases(folder, timeout_s=timeout_s).states() if folder.exists() else []
    for state in states:
        if not state.expired:
            raise UserError("overwrite", "true", f"false while {state.owner} is at shard {state.unit}")
