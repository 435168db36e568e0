"""Encode raw shards into a cache of latents, with the fingerprint of everything they were made from.

Any number of workers share the shards of one output: processes, the same command typed again here or on
another node, the tasks of an array. They may join, leave or be killed; the last one completes the cache.
"""

from __future__ import annotations

from core.progress import say
from tools.encode.config import Config


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    if config.action in ("status", "verify"):
        from tools.encode import state

        return state.plan(config)
    import torch

    from tools.encode.setup import make_job, report

    job, _ = make_job(config, torch.device("cpu"))
    if config.action == "repair":
        from tools.encode import repair as encode_repair

        return encode_repair.plan(config, job)
    done = set() if config.overwrite else job.finished()
    return report(job, [shard for shard in range(len(job.dataset.manifest.shards)) if shard not in done])


def run(config: Config) -> None:
    """Do what `config.action` says."""
    if config.action == "status":
        from tools.encode.state import describe

        for line in describe(config.source, config.output, config.queue):
            say(line)
    elif config.action == "verify":
        from tools.encode.state import verify

        verify(config.output)
    else:
        from tools.encode.workers import encode, repair

        (repair if config.action == "repair" else encode)(config)
