"""Start engines from a network without weights: `python first_weights_run.py RESULT.json`, once per rank.

The first rank writes, for each engine, whether all weights are those of the network built as usual, and
whether four steps then end at the bits that an engine ends at which was given that network.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.batch import Condition
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.first_values.recording import first_of, without_weights
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with
from models.denoisers.dit import DiT, DiTConfig

NETWORK = DiTConfig(width=36, depth=2, heads=3, num_classes=3, text_width=12)
ENGINES = [("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3), ("fsdp2", 2), ("fsdp2", 3)]


def network(*, deferred: bool) -> DiT:
    """Return the network, of which one layer is frozen, with its weights or without."""
    torch.manual_seed(1)
    made = without_weights(_built) if deferred else _built()
    assert bool(first_of(made)) == deferred
    for parameter in made.blocks[0].mlp.up.parameters():
        parameter.requires_grad_(False)
    return made


def _built() -> DiT:
    """Build the network, with a buffer that its output depends on."""
    made = NETWORK.build()
    made.register_buffer("shift", torch.linspace(0, 1, 4).square() + torch.rand(4))
    made.register_forward_hook(lambda module, inputs, out: out + module.shift.view(-1, 1, 1, 1))
    return made


def trained(world: World, engine: EngineConfig, *, deferred: bool) -> list[dict[str, Tensor]]:
    """Return the weights at the start, the frozen ones, and the weights after four steps."""
    made = make_engine(network(deferred=deferred), engine, OptimizerConfig(lr=1e-2), world)
    states = [made.full_state(), made.fixed()]
    for step in range(4):
        seed = torch.Generator().manual_seed(step * world.size + world.rank)
        x, time = torch.randn(2, 4, 1, 4, 4, generator=seed), torch.tensor([10.0, 900.0])
        made.backward((made(x, time, Condition()) - x).square().mean() / world.size)
        made.step(1e-2)
    return [*states, made.full_state()]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def main() -> None:
    world, found = ranks.start("cpu", 60), {}
    plain = {name: p for name, p in network(deferred=False).named_parameters() if p.requires_grad}
    for kind, stage in ENGINES:
        for precision in ("bf16", "fp32"):
            fields: Any = {"kind": kind, "zero_stage": stage, "precision": precision}
            engine = EngineConfig(**fields, device="cpu")
            usual, later = trained(world, engine, deferred=False), trained(world, engine, deferred=True)
            if world.rank == 0:
                same = [equal(one, other) for one, other in zip(usual, later, strict=True)]
                name = f"{kind}, stage {stage}, {precision}"
                found[name] = [equal(later[0], {n: p.detach() for n, p in plain.items()}), *same]
    if world.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
