"""Calculate what an encoding job writes: its shapes, and the bytes of latents, features and text."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence

import numpy as np

from core.progress import counted, size
from data.latent.encode_job import Job
from data.latent.packs import LATENT_DTYPE, still_shape
from data.order.buckets import NO_BUCKET
from data.order.fitting import fitting_lines
from data.order.usage import usage_lines


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
        f"{size(bytes_to_write(job, shards))} to be written to {job.folder}, {size(free)} free"
    )
    if job.pictures is not None:
        shape = "x".join(map(str, max(job.feature_shapes)))
        of_features = _feature_bytes(job, shards)
        times = of_features / max(1, bytes_to_write(job, shards) - of_features)
        lines.append(
            f"of that {size(of_features)} are features of pictures, up to {shape} a view, {times:.1f} times "
            "the latents"
        )
    if job.stills:
        lines.append(
            f"of that {size(_still_bytes(job, shards))} are stills of last pictures, for which each clip is "
            "encoded once more"
        )
    if job.captions is not None:
        most = 2 * samples * job.captions.tokens * job.captions.width
        tokens = counted(job.captions.tokens, "token")
        lines.append(f"beside it text, at most {tokens} a caption, so at most {size(most)}")
    elif texts := job.dataset.manifest.extra.get("texts"):
        lines.append(
            f"warning: {texts} of {counted(len(job.dataset), 'sample')} have a caption, which "
            "text_encoder='' leaves out; text_encoder=FOLDER embeds them, for training on prompts"
        )
    media = np.asarray(job.dataset.media)
    lines += fitting_lines(media, job.column, job.buckets)
    lines += usage_lines(media, job.column, job.buckets, job.clips)
    return lines


def bytes_to_write(job: Job, shards: Iterable[int]) -> int:
    """Return the bytes of latents, stills and features of these shards' samples, and 3 % for all else."""
    latents = _of_samples(job, shards, [job.dtype.itemsize * math.prod(shape) for shape in job.shapes])
    return int(1.03 * (latents + _still_bytes(job, shards))) + _feature_bytes(job, shards)


def _still_bytes(job: Job, shards: Iterable[int]) -> int:
    """Return the bytes of the stills of these shards' clips; 0 where none are stored."""
    sizes = [job.dtype.itemsize * math.prod(still_shape(s)) * (s[2] > 1) for s in job.shapes]
    return _of_samples(job, shards, sizes) if job.stills else 0


def _feature_bytes(job: Job, shards: Iterable[int]) -> int:
    """Return the bytes of the features of these shards' samples."""
    return _of_samples(
        job, shards, [LATENT_DTYPE.itemsize * math.prod(shape) for shape in job.feature_shapes]
    )


def _of_samples(job: Job, shards: Iterable[int], of_view: Sequence[int]) -> int:
    """Return what all views of these shards' samples take, of which one takes so much in each bucket."""
    sizes = np.zeros(NO_BUCKET + 1, np.int64)
    sizes[: len(of_view)] = (1 + job.flip) * np.array(of_view, np.int64)
    return int(sum(sizes[job.column[job.rows(s).start : job.rows(s).stop]].sum() for s in shards))
