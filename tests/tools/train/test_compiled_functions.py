"""At ZeRO stage 3 the functions between layers are compiled: without breaks under its hooks, and equal."""

from __future__ import annotations

import pytest
import torch

from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.compiling import compilations, compiled_graphs, warm_up
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.optim.groups import OptimizerConfig
from models.denoisers.dit import DiTConfig
from models.denoisers.network import example_inputs
from tools.train import network as building

CPU = torch.device("cpu")
SHAPES = ((2, 4, 1, 4, 4), (1, 4, 2, 4, 4))
CONFIG = DiTConfig(
    width=16, depth=2, heads=2, num_classes=3, positions="rotary", qk_norm=True, attention="math"
)


def train(world: World, *, compile: bool, device: torch.device = CPU) -> list[float]:
    """Return losses and gradient norms of two steps."""
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
    if compile:
        warm_up(engine, examples)
    before = compilations()
    found = []
    for number in range(2):
        for x, time, condition in examples:
            torch.manual_seed(number)
            loss = (engine(torch.randn_like(x), time, condition) - x).square().mean()
            engine.backward(loss)
            found.append(float(loss.detach()))
        found.append(engine.step(1e-3).grad_norm)
    assert compilations() == before, "graphs were compiled after the first step began"
    return found


def test_functions_are_whole_graphs_and_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compiled with fullgraph=True, so a break within one would end the test."""
    plain_compile, seen = building.compile_functions, []

    def by_aot(network: torch.nn.Module) -> None:
        plain_compile(network, "aot_eager")
        seen.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    monkeypatch.setattr(building, "compile_functions", by_aot)
    eager = train(ranks.start("cpu", 60), compile=False)
    compiled = train(ranks.start("cpu", 60), compile=True)
    graphs = 6  # norm_modulate for strides of blocks and of the end, gated_norm_modulate, gated, gelu, rotate
    assert compiled_graphs() - seen[0] == graphs * len(SHAPES)
    assert compiled == pytest.approx(eager, rel=1e-6)


@pytest.mark.cuda
def test_inductor_s_functions_are_equal_on_a_gpu() -> None:
    world = ranks.start("cuda", 60)
    eager = train(world, compile=False, device=world.device)
    assert train(world, compile=True, device=world.device) == pytest.approx(eager, rel=1e-4)
