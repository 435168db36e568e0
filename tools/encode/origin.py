"""The origin of a cache: what its latents depend on, recorded and compared with what the sources are now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.config.loading import to_dict
from core.errors import UserError
from core.reading import json_files
from core.run.changes import Content, Contents
from core.run.ways_out import ways_out
from data.dataset.manifest import DatasetManifest
from data.latent.encode_job import Job, encoded, recorded_origin
from data.latent.reading import compare
from data.media.scaling import RESIZE
from data.raw.decoding import decoding_identity
from models.autoencoder.tiling_config import TilingConfig


def describe(
    job: Job,
    encoder: dict[str, Any],
    tiling: TilingConfig,
    store: str,
    dtype: str,
    computation: dict[str, Any],
) -> dict[str, Any]:
    """Return what the latents depend on, as plain JSON values."""
    return json_files.plain(
        {
            **encoder,
            "tiling": to_dict(tiling),
            "store": store,
            "views": ["plain", *(["flip"] if job.flip else []), *(["still"] if job.stills else [])],
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


def contents(output: Path, made_from: dict[str, Any]) -> Contents:
    """Return what the cache records of source, autoencoder and text encoder, beside what they are now."""
    names = {"source": ("source",), "autoencoder": ("encoder", "encoder_config"), "text_encoder": ("text",)}
    names |= {"picture_encoder": ("pictures",)}

    def of_place(path: str) -> tuple[Content | None, Content]:
        kept, found = recorded_origin(output), {name: made_from.get(name) for name in names[path]}
        return (None if kept is None else {name: kept.get(name) for name in names[path]}), found

    return of_place


def require_same(job: Job, made_from: dict[str, Any]) -> None:
    """Raise UserError if the finished cache was made from another source or encoder than these now are.

    It may be looked at on another machine than it was computed on.
    """
    recorded = DatasetManifest.read(job.folder).extra["made_from"]
    if (differs := compare(recorded, made_from | {"computation": recorded["computation"]})) is not None:
        field, before, now = differs
        ways = ways_out(encoded(job), "the old content")
        raise UserError(f"{job.folder}: made with {field}={before}, now it is {now}; {ways}")
