"""Encode raw shards into a cache of latents, with the fingerprint of everything they were made from.

Any number of workers share the shards of one output: processes, the same command typed again here or on
another node, or the tasks of an array. They may join, leave or be killed; the last one completes the cache.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from core.config.sections import section
from core.progress import say
from tools.encode.config import Config

if TYPE_CHECKING:
    from core.run.changes import Contents
    from data.latent.encode_job import Job


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    if config.action == "status" or config.action == "verify":
        from tools.encode import state

        return state.plan(config.action, config.output)
    import torch

    from tools.encode.setup import Encoding, make_job
    from tools.encode.volume import report

    job, _ = make_job(section(Encoding, config), torch.device("cpu"))
    if config.action == "repair":
        from tools.encode import repair as encode_repair

        return encode_repair.plan(config.output, job)
    done = set() if config.overwrite else job.finished()
    return report(job, [shard for shard in range(len(job.dataset.manifest.shards)) if shard not in done])


def run(config: Config) -> None:
    """Encode, show the status, verify or repair, as `config.action` says."""
    if config.action == "status":
        from tools.encode.state import describe

        for line in describe(config.source, config.output, config.queue):
            say(line)
    elif config.action == "verify":
        from tools.encode.state import verify

        verify(config.output)
    else:
        from core.run.claim import claim
        from data.dataset.schema import MANIFEST
        from data.latent.encode_job import encoded
        from tools.encode.setup import Encoding, Sharing
        from tools.encode.workers import encode, repair

        do = repair if config.action == "repair" else encode
        kept = replace(config, action="encode")  # a repaired cache is an encoded one

        def take(job: Job, contents: Contents) -> Literal["new", "continue", "finished"]:
            return claim(
                config.output,
                kept,
                done=MANIFEST,
                overwrite=config.overwrite,
                contents=contents,
                made=partial(encoded, job),
            )

        do(section(Encoding, config), section(Sharing, config), take)
