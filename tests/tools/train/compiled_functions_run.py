"""Train at ZeRO stage 3 with and without compiled functions; run as a program on every rank of a world."""

from __future__ import annotations

import json

import torch

from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.compiling import compilations, compiled_graphs, warm_up
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with
from models.denoisers.dit import DiTConfig
from models.denoisers.network import example_inputs
from tests.core.engine.gathered_linear_run import free_all
from tools.train import network as building

CPU = torch.device("cpu")
SHAPES = ((2, 4, 1, 4, 4), (1, 4, 2, 4, 4))
CONFIG = DiTConfig(
    width=16, depth=2, heads=2, num_classes=3, positions="rotary", qk_norm=True, attention="math"
)


def train(world: World, *, compile: bool, device: torch.device = CPU) -> tuple[list[float], list[int]]:
    """Return losses and gradient norms of two steps, and how many graphs were made before them and since."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = CONFIG.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    config = EngineConfig(device=device.type, precision="fp32", zero_stage=3, compile=compile)
    engine = make_engine(model, config, OptimizerConfig(), world)
    building.compile_for(engine.config, model)
    examples = [example_inputs(CONFIG, shape, device) for shape in SHAPES]
    before = compiled_graphs()
    if compile:
        warm_up(engine, examples)
    graphs, warm = compiled_graphs() - before, compilations()
    found = []
    for number in range(2):
        for x, time, condition in examples:
            torch.manual_seed(number)
            loss = (engine(torch.randn_like(x), time, condition) - x).square().mean()
            engine.backward(loss)
            found.append(float(loss.detach()))
        found.append(engine.step(1e-3).grad_norm)
    return found, [graphs, compilations() - warm]


def main() -> None:
    """Print what both give; weights are freed after every layer, as those of a large network are."""
    world = ranks.start("cpu", 60)
    free_all()
    plain = building.compile_functions
    building.compile_functions = lambda network: plain(network, "aot_eager")
    eager, _ = train(world, compile=False)
    compiled, graphs = train(world, compile=True)
    print(json.dumps({"eager": eager, "compiled": compiled, "graphs": graphs}))
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
