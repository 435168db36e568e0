"""Encode raw shards into a cache of latents, with the fingerprint of everything they were made from."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.errors import UserError
from core.outputs import claim
from core.progress import Progress, say
from core.settings import REQUIRED, setting
from data.buckets import BucketConfig
from data.formats import DEFAULT_LIMITS, MediaLimits

if TYPE_CHECKING:
    from core.distributed import World
    from data.encoding import Job

MANIFEST = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is encoded, by what, and how."""

    source: Path = setting(REQUIRED, "raw dataset, as `shard` makes it")
    autoencoder: Path = setting(REQUIRED, "folder of the autoencoder")
    output: Path = setting(REQUIRED, "folder that receives the cache")
    seed: int = setting(0, "not used: encoding draws nothing", low=0)
    overwrite: bool = setting(False, "encode again over a finished output")
    processes: int = setting(1, "ranks that share the shards", low=1)
    store: Literal["moments", "mean"] = setting(
        "moments", "moments: training draws fresh latents every epoch; mean: half the bytes"
    )
    buckets: BucketConfig = setting(BucketConfig(), "shapes that samples are brought to, and clips")
    batch: int = setting(8, "samples encoded at once", unit="samples", low=1)
    precision: Literal["fp32", "bf16"] = setting("fp32", "number format of the encoder's computation")
    threads: int = setting(1, "CPU threads of the encoder in each process", low=1)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where the encoder runs")
    limits: MediaLimits = setting(DEFAULT_LIMITS, "what is refused because it is too large")
    quarantine_budget: float = setting(
        0.1, "unusable samples that do not stop the job: a fraction if below 1, else a number", low=0
    )


def plan(config: Config) -> list[str]:
    """Say what `run` would encode."""
    import torch

    job, _ = _job(config, torch.device("cpu"))
    return _report(job, range(len(job.dataset.manifest.shards)))


def run(config: Config) -> None:
    """Encode the shards that are not there yet, shared by all ranks; rank 0 completes the cache."""
    import torch

    from core.distributed import barrier, broadcast_object, start, stop

    world = start(config.device)
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.benchmark = False  # its choice of algorithm may differ from run to run
    torch.backends.cudnn.deterministic = True
    job, made_from = _job(config, world.device)
    state = None
    if world.rank == 0:
        state = _begin(config, job, made_from)
    if broadcast_object(state) == "finished":
        say(f"{config.output}: finished before")
    else:
        _encode_mine(job, world)
        barrier()
        if world.rank == 0:
            _complete(job, made_from)
    stop(world)


def _begin(config: Config, job: Job, made_from: dict[str, Any]) -> str:
    """Claim the output; what remains to be done must fit the disk."""
    from data.encoding import begin
    from data.shards import drop_receipts

    state = claim(config.output, config, done=MANIFEST, overwrite=config.overwrite)
    if state == "finished":
        _require_same_origin(config.output, made_from)
        drop_receipts(config.output)
        return state
    begin(config.output, made_from)
    left = _left(job)
    for line in _report(job, left):
        say(line)
    needed, free = _bytes(job, left), shutil.disk_usage(config.output).free
    if needed > free:
        raise UserError(
            "output", config.output, f"a disk with {_size(needed)} free, this one has {_size(free)}"
        )
    job.quarantine.check()
    return state


def _require_same_origin(output: Path, made_from: dict[str, Any]) -> None:
    """UserError if the finished cache was made from another source or encoder than these now are.

    It may be looked at on another machine than it was computed on.
    """
    from data.latents import compare
    from data.schema import DatasetManifest

    recorded = DatasetManifest.read(output).extra["made_from"]
    if (differs := compare(recorded, made_from | {"computation": recorded["computation"]})) is not None:
        field, before, now = differs
        raise UserError(
            f"{output}: made with {field}={before}, now it is {now}; overwrite=true encodes again"
        )


def _encode_mine(job: Job, world: World) -> None:
    """Encode this rank's share of the shards that are left."""
    from data.encoding import encode_shard

    every = range(len(job.dataset.manifest.shards))
    mine = [shard for shard in every[world.rank :: world.size]]
    left = [shard for shard in mine if not job.receipt(shard).exists()]
    total, rest = (sum(len(job.rows(shard)) for shard in shards) for shards in (mine, left))
    began = time.monotonic()
    with Progress(total, "encode", done=total - rest) as progress:

        def advance(count: int) -> None:
            progress.advance(count, f"encoder busy {job.encoder.busy_s / (time.monotonic() - began):.0%}")

        for shard in left:
            encode_shard(job, shard, advance)


def _complete(job: Job, made_from: dict[str, Any]) -> None:
    from data.assembly import assemble

    manifest = assemble(job, made_from)
    aside = f"; {len(job.quarantine)} set aside, see {job.quarantine.path}" if len(job.quarantine) else ""
    say(f"{job.folder}: {manifest.samples} samples in {len(manifest.shards)} parts{aside}")
    for channel, (mean, std) in enumerate(
        zip(manifest.extra["statistics"]["mean"], manifest.extra["statistics"]["std"], strict=True)
    ):
        say(f"latent channel {channel}: mean {mean:.4f}, standard deviation {std:.4f}")


def _job(config: Config, device: Any) -> tuple[Job, dict[str, Any]]:
    """Everything that encoding a shard needs, and what the cache is made from."""
    import numpy as np

    from data.buckets import assign, make_buckets
    from data.encoding import Job
    from data.index import Dataset
    from data.schema import QUARANTINE, Quarantine
    from tools.encoders import AutoencoderEncoder

    dataset = Dataset(config.source)
    if dataset.manifest.kind != "raw":
        raise UserError("source", config.source, "a raw dataset; this is a latent cache")
    encoder = AutoencoderEncoder(config.autoencoder, device, config.precision)
    media = np.asarray(dataset.media)
    buckets = make_buckets(media, config.buckets)
    stored = 2 if config.store == "moments" else 1
    quarantine = Quarantine(config.output / QUARANTINE, total=len(dataset), budget=config.quarantine_budget)
    job = Job(
        dataset,
        config.output,
        encoder,
        buckets,
        [(stored, *encoder.latent_shape(bucket)) for bucket in buckets],
        assign(media, buckets, config.buckets),
        config.buckets,
        config.limits,
        config.batch,
        quarantine,
    )
    return job, _made_from(config, job, encoder.identity, device.type)


def _made_from(config: Config, job: Job, encoder: dict[str, Any], device: str) -> dict[str, Any]:
    """What the latents depend on: plain JSON values."""
    return _plain(
        {
            **encoder,
            "store": config.store,
            "dtype": "float16",
            "preprocessing": {
                "buckets": [str(bucket) for bucket in job.buckets],
                "resize": "bicubic, antialiased, to cover; centre crop",
                "range": "pixels / 127.5 - 1",
                "fps": config.buckets.fps,
                "stride": config.buckets.stride,
                "clip": "centre",
            },
            "computation": {
                "device": device,
                "precision": config.precision,
                "batch": config.batch,
                "threads": config.threads,
            },
            "source": {"fingerprint": job.dataset.manifest.fingerprint, "samples": len(job.dataset)},
        }
    )


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _left(job: Job) -> list[int]:
    return [s for s in range(len(job.dataset.manifest.shards)) if not job.receipt(s).exists()]


def _report(job: Job, shards: Any) -> list[str]:
    """One line for each bucket, then the bytes to be written beside the free ones."""
    import numpy as np

    from data.buckets import NO_BUCKET

    counts = np.bincount(job.column, minlength=NO_BUCKET + 1)
    lines = [
        f"{bucket} pixels -> {'x'.join(map(str, shape))} latents: {counts[number]} samples"
        for number, (bucket, shape) in enumerate(zip(job.buckets, job.shapes, strict=True))
    ]
    if counts[NO_BUCKET]:
        lines.append(f"{counts[NO_BUCKET]} samples fit no bucket and will be set aside")
    place = next(folder for folder in (job.folder, *job.folder.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    lines.append(f"{_size(_bytes(job, shards))} to be written to {job.folder}, {_size(free)} free")
    return lines


def _bytes(job: Job, shards: Any) -> int:
    """Bytes of the latents of these shards' samples, and 3 % for all else."""
    import numpy as np

    from data.buckets import NO_BUCKET

    sizes = np.zeros(NO_BUCKET + 1)
    sizes[: len(job.shapes)] = [2 * np.prod(shape) for shape in job.shapes]
    return int(1.03 * sum(sizes[job.column[job.rows(s).start : job.rows(s).stop]].sum() for s in shards))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
