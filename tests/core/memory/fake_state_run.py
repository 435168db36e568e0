"""As `state_run`, for one rank of thousands: `python fake_state_run.py RANK SIZE RESULT.json`.

torch's fake process group says that there are so many ranks, and moves nothing: DeepSpeed cuts, pads and
holds what it would, and the sizes are real. No step is taken, since in the first one DeepSpeed's stage 3 asks
rank 0 whether the order of modules is the same there.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from core.distributed import waiting
from core.distributed.ranks import World
from core.run.ending import end_with
from tests.core.memory.state_run import perform


def main() -> None:
    rank, size = int(sys.argv[1]), int(sys.argv[2])
    os.environ["LOCAL_RANK"] = "0"  # as DeepSpeed wants it
    waiting.exchange = lambda value, combine, *_, **__: combine([value])  # nobody to wait for
    warnings.filterwarnings("ignore", "Set timeout is now only supported")
    dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    world = World(rank, size, 0, torch.device("cpu"))
    cases = product((0, 1, 2, 3), ("bf16", "fp32"), ("adamw",))  # Muon's ranks tell each other their shards
    Path(sys.argv[3]).write_text(json.dumps([perform(world, *case, steps=0) for case in cases]))


if __name__ == "__main__":
    end_with(main)
