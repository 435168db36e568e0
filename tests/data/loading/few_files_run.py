"""Read steps of a mixture in a process of its own, whose limit of open files stays as it was set."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from pathlib import Path

import torch

from core.distributed.ranks import World
from data.dataset.index import Dataset
from data.loading.loader import LatentLoader
from data.order.steps import LoaderConfig


def digest_of(folders: list[Path], steps: int) -> tuple[str, int]:
    """Return a hash of all latents and ids of the steps, and the most descriptors that were open."""
    config = LoaderConfig(group_size=8, rank_multiple=8, groups_per_step=2)
    caches = [Dataset(folder) for folder in folders]
    loader = LatentLoader(caches, config, World(0, 1, 0, torch.device("cpu")), seed=0)
    digest, most = hashlib.sha256(), 0
    for step in range(steps):
        for batch in loader.load(step):
            digest.update(batch.id.numpy().tobytes() + batch.x.numpy().tobytes())
        most = max(most, len(os.listdir("/proc/self/fd")))
    return digest.hexdigest(), most


if __name__ == "__main__":
    limit, steps, *folders = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
    print(json.dumps(digest_of([Path(folder) for folder in folders], int(steps))))
