"""Compare the state of training with the bytes of real engines: `python state_run.py RESULT.json`, per rank.

The result has, for each case, what `core.memory.state` says and what there is: bytes of weights, masters,
moments and averages, the most that lives during passes, and the most of all; and those of the largest
gradient, which is counted with activations.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.averages.ema import Ema, EmaConfig
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.engine.kinds import make_engine
from core.memory.counting import LiveBytes
from core.memory.state import ParameterGroup, TrainingState
from core.optim.groups import OptimizerConfig, parameter_groups
from core.run.ending import end_with
from tools.plan.shares import numbers_of_ranks

WIDTHS = (61, 701, 701, 701, 701, 33)  # odd, so that every padding shows; more numbers than the least bucket


AVERAGES = {
    "one average": EmaConfig(decay=0.99),
    "three averages": EmaConfig(decay=0.99, extra_decays=(0.9, 0.999)),
    "an average and two powers": EmaConfig(decay=0.99, power_widths=(0.05, 0.1)),
}


class Net(nn.Module):
    """Linear layers, those between equal widths hidden ones, on so few samples that only they count."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(WIDTHS))
        for layer in self.layers[1:-1]:
            layer.weight.hidden = True  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.square().mean()


class RealBytes(LiveBytes):
    """Live bytes without those of shapes alone, which DeepSpeed keeps on torch's meta device."""

    def _note(self, storage: Any) -> None:
        if storage.device.type != "meta":
            super()._note(storage)


def perform(world: World, stage: int, precision: str, rule: str, steps: int = 4) -> dict[str, Any]:
    """Take steps of two micro-batches; return sizes as they are said and found.

    The peak is that of the step with the least, but for the first, in which some memory is not there yet:
    when gloo's threads let go of a bucket that has been sent is a matter of chance.
    """
    engine_config = EngineConfig(zero_stage=stage, precision=precision)  # type: ignore[arg-type]
    optimizer = OptimizerConfig(name=rule)  # type: ignore[arg-type]
    gc.collect()
    with RealBytes() as live:
        torch.manual_seed(0)
        model = Net()
        groups = [
            ParameterGroup([tuple(p.shape) for p in g["params"]], g.get("rule") == "muon")
            for g in parameter_groups(model, optimizer)
        ]
        engine = make_engine(model, engine_config, optimizer, world)
        gc.collect()
        sizes, passes, updates = {"weights": _weights(engine)}, list[int](), list[int]()
        sizes["masters"] = _bytes(engine.masters)
        sizes["moments"] = sum(map(_bytes, engine.moments().values()))
        for name, averages in AVERAGES.items():
            sizes[name] = sum(map(_bytes, Ema(averages, engine.masters).averages.values()))
        x = torch.zeros((2, WIDTHS[0]), dtype=next(model.parameters()).dtype)
        for _ in range(steps):
            live.trace.clear()
            for _ in range(2):
                engine.backward(engine(x))
            passes.append(max(live.trace))
            live.trace.clear()
            engine.step(1e-3)
            updates.append(max(live.trace))
    most = min(passes[1:], default=0), min(updates[1:], default=0)
    state = TrainingState(
        groups=groups, ranks=world.size, zero_stage=stage, bf16=precision == "bf16", averages=0
    )
    parts = state.parts()
    gathered = state._gathered()  # whole weights, during passes alone
    said = {name: parts.get(name, 0) for name in ("weights", "masters", "moments")}
    said["weights"] -= gathered
    for name, averages in AVERAGES.items():
        said[name] = replace(state, averages=len(averages.names)).parts()["averages"]
    owned = sum(shard.stop - shard.start for shard in engine.shards)
    engine._engine.destroy()
    return {
        "case": f"stage {stage}, {precision}, {rule}, {world.size} ranks",
        "said": said,
        "found": sizes,
        "owned": [int(numbers_of_ranks(groups, stage, world.size)[world.rank]), owned],
        "gradient": max(WIDTHS) ** 2 * x.element_size(),
        "passes": [sum(parts.values()), most[0]],
        "peak": [sum(parts.values()) + state.update_excess(), max(most)],
    }


def _weights(engine: Engine) -> int:
    """Bytes of the parameters as a rank keeps them between steps, but for views of the masters."""
    held = [getattr(p, "ds_tensor", p) for p in engine.module.parameters()]
    masters = {flat.untyped_storage().data_ptr() for flat in engine.masters}
    return _bytes([p for p in held if p.untyped_storage().data_ptr() not in masters])


def _bytes(tensors: list[Tensor]) -> int:
    """Bytes of the storages of tensors, each once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values())


def main() -> None:
    world = ranks.start("cpu")
    cases = product((0, 1, 2, 3), ("bf16", "fp32"), ("adamw", "muon"))
    found = [perform(world, *case) for case in cases]
    every = ranks.gather_objects(found)
    if world.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(every))
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
