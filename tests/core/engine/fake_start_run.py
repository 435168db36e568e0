"""Start one rank of a fake world: `python fake_start_run.py KIND STAGE RANKS WIDTH DEPTH RESULT.json`.

torch's fake process group says that there are so many ranks, and moves nothing. The result has the most bytes
of fp32 tensors that lived while the engine was made, those that stay, the largest parameter's, the most
memory of the process beyond what it had before, and how many first values were asked for.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves

from core.distributed import waiting
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.first_values import recording
from core.first_values.recording import without_weights
from core.memory.counting import LiveBytes
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with
from models.denoisers.dit import DiTConfig


class WideBytes(LiveBytes):
    """Live bytes of fp32 tensors that have memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, DTensor):  # has the size of the whole, and the memory of its rows
                leaf = leaf._local_tensor
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu" and leaf.dtype == torch.float32:
                self._note(leaf.untyped_storage())
        self.trace.append(self._live)
        return result


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    kind, stage, size, width, depth = sys.argv[1], *map(int, sys.argv[2:6])
    os.environ["LOCAL_RANK"] = "0"  # as DeepSpeed wants it
    waiting.exchange = lambda value, combine, *_, **__: combine([value])  # nobody to wait for
    warnings.filterwarnings("ignore", "Set timeout is now only supported")
    dist.init_process_group("fake", rank=size // 2, world_size=size, store=FakeStore())
    world = World(size // 2, size, 0, torch.device("cpu"))
    fields: Any = {"kind": kind, "zero_stage": stage, "shard_ranks": size if kind == "fsdp2" else 0}
    if kind == "deepspeed":
        fields["reduce_dtype"] = "bf16"  # the bucket in which gradients are added up is no copy of weights
    small = DiTConfig(width=64, depth=1, heads=1, num_classes=10)
    make_engine(small.build(), EngineConfig(**fields), OptimizerConfig(), world)  # what libraries take once
    gc.collect()
    network = DiTConfig(width=width, depth=depth, heads=width // 64, num_classes=1000)
    asked, made = [], recording._Drawn._made
    recording._Drawn._made = lambda self, *ends: asked.append(ends[1] - ends[0]) or made(self, *ends)
    before, began = peak_bytes(), time.process_time()
    with WideBytes() as live:
        torch.manual_seed(1)
        model = without_weights(network.build)
        largest = max(p.numel() for p in model.parameters())
        numbers = sum(p.numel() for p in model.parameters())
        engine = make_engine(model, EngineConfig(**fields), OptimizerConfig(), world)
        gc.collect()
        result = {"peak": max(live.trace), "stays": live.trace[-1], "largest": 4 * largest}
    result |= {"numbers": numbers, "grown": peak_bytes() - before, "seconds": time.process_time() - began}
    result["drawn"] = sum(asked)
    result["masters"] = sum(flat.nbytes for flat in engine.masters)
    Path(sys.argv[6]).write_text(json.dumps(result))


if __name__ == "__main__":
    end_with(main)
