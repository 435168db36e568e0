"""Set up `encode`: the job, what the cache is made from, and what has to fit the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core import environment
from core.config.loading import to_dict
from core.errors import UserError, below
from core.files import temporaries
from core.progress import counted, say, size
from core.queue.leases import Leases
from core.run.changes import Content, Contents
from core.run.claim import claim
from core.run.ways_out import ways_out
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.quarantine import BEYOND, Quarantine
from data.dataset.schema import MANIFEST, QUARANTINE
from data.latent.encode_job import Job, begin, encoded, recorded_origin
from data.latent.reading import compare
from data.media.scaling import RESIZE
from data.order.buckets import NO_BUCKET, assign, make_buckets
from data.order.usage import usage_lines
from data.raw.decoding import decoding_identity
from data.raw.unfinished import drop_receipts
from models.autoencoder.tiling_config import TilingConfig
from tools.runs.encoders import AutoencoderEncoder, CaptionEmbedder, Clock

if TYPE_CHECKING:
    from tools.encode.config import Config

LEASES = ".leases"  # inside the output, until it is complete


def make_job(config: Config, device: torch.device) -> tuple[Job, dict[str, Any]]:
    """Return everything that encoding a shard needs, and what the cache is made from."""
    dataset = Dataset(config.source)
    if dataset.manifest.kind != "raw":
        raise UserError("source", config.source, "a raw dataset; this is a latent cache")
    clock = Clock()
    encoder = AutoencoderEncoder(config.autoencoder, device, config.precision, clock)
    with below("tiling"):
        encoder.autoencoder.set_tiling(config.tiling)
    media = np.asarray(dataset.media)
    with below("buckets"):
        buckets = make_buckets(media, config.buckets)
    stored = 2 if config.store == "moments" else 1
    if stored > encoder.moments:
        raise UserError("store", config.store, f"mean, since {config.autoencoder} gives no distribution")
    captions = None
    if config.text_encoder:
        folder = Path(config.text_encoder)
        captions = CaptionEmbedder(folder, config.text_tokens, device, config.precision, clock)
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
        Quarantine(
            config.output / QUARANTINE,
            total=len(dataset),
            budget=config.quarantine_budget,
            beyond=BEYOND,
        ),
        config.flip,
        config.decode_threads,
        captions,
        np.dtype(config.dtype).newbyteorder("<"),
    )
    identity = encoder.identity | ({"text": captions.identity} if captions else {})
    computation = {
        "device": device.type,
        "precision": config.precision,
        "batch": config.batch,
        "threads": config.threads,
    }
    return job, _made_from(job, identity, config.tiling, config.store, config.dtype, computation)


def choose_device(name: str, worker: int) -> torch.device:
    """Return the device that `name` (auto, cpu, cuda) means for a worker here; workers take GPUs in turn."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device", name, "cpu, since no CUDA device is visible here")
    return torch.device("cuda", worker % torch.cuda.device_count())


def start(config: Config, job: Job, made_from: dict[str, Any]) -> bool:
    """Claim the output and say what is to be done; False if it is finished.

    UserError if it is of another source or encoder, or what remains does not fit the disk.
    """
    if config.overwrite:
        _require_alone(config.output, config.queue.timeout_s)
    state = claim(
        config.output,
        config,
        done=MANIFEST,
        overwrite=config.overwrite,
        contents=_contents(config.output, made_from),
        made=lambda: encoded(job),
    )
    if state == "finished":
        _require_same_origin(job, made_from)
        clear(config.output)
        return False
    begin(job, made_from)
    left = sorted(set(range(len(job.dataset.manifest.shards))) - job.finished())
    for line in report(job, left):
        say(line)
    needed, free = _bytes(job, left), shutil.disk_usage(config.output).free
    if needed > free and config.require_space:
        expected = f"a disk with {size(needed)} free, this one has {size(free)}; or require_space=false"
        raise UserError("output", config.output, expected)
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


def report(job: Job, shards: Iterable[int]) -> list[str]:
    """Return one line for each bucket, then the bytes to be written beside the free ones."""
    shards = list(shards)
    counts = np.bincount(job.column, minlength=NO_BUCKET + 1)
    lines = [
        f"{bucket} pixels -> {'x'.join(map(str, shape))} latents: {counted(int(counts[number]), 'sample')}"
        for number, (bucket, shape) in enumerate(zip(job.buckets, job.shapes, strict=True))
    ]
    if counts[NO_BUCKET]:
        lines.append(f"{counted(int(counts[NO_BUCKET]), 'sample')} in no bucket, to be set aside")
    place = next(folder for folder in (job.folder, *job.folder.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    samples = sum(len(job.rows(shard)) for shard in shards)
    lines.append(
        f"{counted(samples, 'sample')} in {counted(len(shards), 'shard')}: "
        f"{size(_bytes(job, shards))} to be written to {job.folder}, {size(free)} free"
    )
    if job.captions is not None:
        most = 2 * samples * job.captions.tokens * job.captions.width
        tokens = counted(job.captions.tokens, "token")
        lines.append(f"beside it text, at most {tokens} a caption, so at most {size(most)}")
    lines += usage_lines(np.asarray(job.dataset.media), job.column, job.buckets, job.clips)
    return lines


def _bytes(job: Job, shards: Iterable[int]) -> int:
    """Return the bytes of the latents of these shards' samples, and 3 % for all else."""
    sizes = np.zeros(NO_BUCKET + 1)
    bytes_of_value = (1 + job.flip) * job.dtype.itemsize
    sizes[: len(job.shapes)] = [bytes_of_value * np.prod(shape) for shape in job.shapes]
    return int(1.03 * sum(sizes[job.column[job.rows(s).start : job.rows(s).stop]].sum() for s in shards))


def _require_alone(output: Path, timeout_s: float) -> None:
    """Raise UserError if other workers are at this output, or may be soon; timeout_s: of their leases."""
    if environment.place().size > 1:
        raise UserError("overwrite", "true", "false, since several ranks would remove each other's work")
    folder = output / LEASES
    states = Leases(folder, timeout_s=timeout_s).states() if folder.exists() else []
    for state in states:
        if not state.expired:
            raise UserError("overwrite", "true", f"false while {state.owner} is at shard {state.unit}")


def _contents(output: Path, made_from: dict[str, Any]) -> Contents:
    """Return what the cache records of source, autoencoder and text encoder, beside what they are now."""
    names = {"source": ("source",), "autoencoder": ("encoder", "encoder_config"), "text_encoder": ("text",)}

    def contents(path: str) -> tuple[Content | None, Content]:
        kept, found = recorded_origin(output), {name: made_from.get(name) for name in names[path]}
        return (None if kept is None else {name: kept.get(name) for name in names[path]}), found

    return contents


def _require_same_origin(job: Job, made_from: dict[str, Any]) -> None:
    """Raise UserError if the finished cache was made from another source or encoder than these now are.

    It may be looked at on another machine than it was computed on.
    """
    recorded = DatasetManifest.read(job.folder).extra["made_from"]
    if (differs := compare(recorded, made_from | {"computation": recorded["computation"]})) is not None:
        field, before, now = differs
        ways = ways_out(encoded(job), "the old content")
        raise UserError(f"{job.folder}: made with {field}={before}, now it is {now}; {ways}")


def _made_from(
    job: Job,
    encoder: dict[str, Any],
    tiling: TilingConfig,
    store: str,
    dtype: str,
    computation: dict[str, Any],
) -> dict[str, Any]:
    """Return what the latents depend on, as plain JSON values."""
    return _plain(
        {
            **encoder,
            "tiling": to_dict(tiling),
            "store": store,
            "views": ["plain", "flip"] if job.flip else ["plain"],
            "dtype": dtype,
            **_all_captions(job),
            "preprocessing": {
                "buckets": [str(bucket) for bucket in job.buckets],
                "resize": RESIZE,
                "range": "pixels / 127.5 - 1",
                "fps": job.clips.fps,
                "stride": job.clips.stride,
                "clip": "centre",
                **decoding_identity(job.dataset, job.clips),
            },
            "computation": computation,
            "source": {"fingerprint": job.dataset.manifest.fingerprint, "samples": len(job.dataset)},
        }
    )


def _all_captions(job: Job) -> dict[str, Any]:
    """State that every caption is stored, where samples have several: earlier versions stored the first."""
    several = job.captions is not None and job.dataset.manifest.extra.get("captions")
    return {"captions": "all"} if several else {}


def _plain(value: Any) -> Any:
    """Return values as JSON gives them back: tuples are lists."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
