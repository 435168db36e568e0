"""What a plan says of traffic beside what DeepSpeed's collectives are called with on two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.core.ranks import run_ranks
from tools.plan.traffic import SharedNetwork, payloads, shared_tokens

COUNTING = """
import json, sys
from collections import Counter
from pathlib import Path
import torch
import torch.distributed as dist

PAYLOADS = {"all_reduce": 0, "all_gather_OF": 0, "reduce_scatter_OF": 1}
sent, counting = Counter(), [False]

def counted(name, place):
    call = getattr(dist, name)
    def counting_call(*arguments, **named):
        tensor = arguments[place] if len(arguments) > place else list(named.values())[place - len(arguments)]
        if counting[0]:
            sent["_".join(name.split("_")[:2])] += tensor.nbytes
        return call(*arguments, **named)
    setattr(dist, name, counting_call)

for name, place in PAYLOADS.items():
    counted(name, place)
"""


def counting(gather: str, scatter: str) -> str:
    """Return the beginning of a program that counts the bytes of collectives, called by these names."""
    return COUNTING.replace("all_gather_OF", gather).replace("reduce_scatter_OF", scatter)


PROGRAM = (
    counting("all_gather_into_tensor", "reduce_scatter_tensor")
    + """
from torch import nn
from core.distributed import ranks
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.optim.groups import OptimizerConfig

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(128, 128) for _ in range(8))
    def forward(self, x):
        x = x.to(self.layers[0].weight.dtype)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.float()

folder = Path(sys.argv[1])
world = ranks.start("cpu", 60, folder=folder)
found = {}
for precision in ("bf16", "fp32", "bf16+fp32"):
    for stage in range(4):
        for micro_batches in (1, 3):
            computed, _, reduced = precision.partition("+")
            config = EngineConfig(
                zero_stage=stage, precision=computed, device="cpu", reduce_dtype=reduced or "auto"
            )
            engine = make_engine(Network(), config, OptimizerConfig(), world)
            sent.clear()
            for step in range(2):
                counting[0] = step == 1
                for _ in range(micro_batches):
                    engine.backward(engine(torch.ones(4, 128)).square().mean())
                engine.step(1e-3)
            counting[0] = False
            found[f"{precision} {stage} {micro_batches}"] = dict(sent)
if world.rank == 0:
    numbers = sum(parameter.numel() for parameter in Network().parameters())
    (folder / "found.json").write_text(json.dumps([numbers, found]))
ranks.stop(world)
"""
)


@pytest.mark.multiprocess
@pytest.mark.full
def test_payloads_are_those_of_the_engine_s_collectives(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    run_ranks(2, str(tmp_path / "program.py"), str(tmp_path))
    numbers, found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 24
    for name, calls in found.items():
        precision, stage, micro_batches = name.split()
        expected = payloads(
            numbers,
            zero_stage=int(stage),
            bf16=precision != "fp32",
            micro_batches=int(micro_batches),
            fp32_reduced=precision == "bf16+fp32",
        )
        for kind in {*calls, *expected}:
            # Norms, flags and padding come on top.
            assert calls.get(kind, 0) == pytest.approx(expected.get(kind, 0), rel=0.01, abs=1000), name


SHARED = """
import json, sys
from collections import Counter
from pathlib import Path
import torch
import torch.distributed as dist

sent = Counter()

def counted(name, kind, place):
    call = getattr(dist, name)
    def counting_call(*arguments, **named):
        tensor = arguments[place]
        sent[kind] += tensor.nbytes * (dist.get_world_size() if kind == "all_gather" else 1)
        return call(*arguments, **named)
    setattr(dist, name, counting_call)

counted("all_to_all_single", "all_to_all", 1)
counted("all_gather", "all_gather", 1)
batch = dist.batch_isend_irecv
def counting_batch(operations):
    sent["send"] += sum(o.tensor.nbytes for o in operations if o.op is dist.isend)
    return batch(operations)
dist.batch_isend_irecv = counting_batch

from core.distributed import ranks
from core.distributed.sequence import make_sequence_group
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.config import EngineConfig
from models.denoisers.dit import DiTConfig
from models.denoisers.network import example_inputs

folder = Path(sys.argv[1])
world = ranks.start("cpu", 60, folder=folder)
group = make_sequence_group(world, 2)
found = {}
for heads in (4, 3):
    for policy in ("none", "selective", "every_k", "full"):
        config = DiTConfig(width=48, depth=4, heads=heads, num_classes=10)
        model = config.build(group)
        checkpoint_blocks(model.blocks, EngineConfig(activation_checkpointing=policy))
        sent.clear()
        model(*example_inputs(config, (3, 4, 1, 6, 10), world.device)).square().mean().backward()
        found[f"{heads} {policy}"] = dict(sent)
if world.rank == 0:
    (folder / "found.json").write_text(json.dumps(found))
ranks.stop(world)
"""


@pytest.mark.multiprocess
@pytest.mark.full
def test_shared_tokens_send_what_a_plan_says(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SHARED)
    run_ranks(2, str(tmp_path / "program.py"), str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 8
    for name, calls in found.items():
        heads, policy = name.split()
        network = SharedNetwork(blocks=4, heads=int(heads), width=48, out=4 * 4)
        kinds = shared_tokens(network, 15, 2, number_bytes=4, policy=policy)
        assert calls == {kind: 3 * size for kind, size in kinds.items()}, name


FSDP = (
    counting("all_gather_single", "reduce_scatter_single")
    + """
from torch import nn
from core.distributed import ranks
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.optim.groups import OptimizerConfig
from tools.plan.traffic import fsdp_payloads
from tools.runs.memory.run_memory import groups_of

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = nn.Linear(33, 129), nn.ModuleList(nn.Linear(129, 129) for _ in range(8))
    def forward(self, x):
        x = self.first(x.to(self.first.weight.dtype))
        for block in self.blocks:
            x = torch.relu(block(x))
        return x.float()

world = ranks.start("cpu", 60)
groups, pairs = groups_of(Network, OptimizerConfig()), {}
for precision in ("bf16", "fp32"):
    for stage in (2, 3):
        for micro_batches in (1, 3):
            for reduce in ("each", "last"):
                for copy in {2, world.size}:
                    config = EngineConfig(
                        kind="fsdp2", zero_stage=stage, precision=precision, device="cpu", reduce=reduce,
                        shard_ranks=copy,
                    )
                    engine = make_engine(Network(), config, OptimizerConfig(), world)
                    sent.clear()
                    for step in range(2):
                        counting[0] = step == 1
                        for number in range(micro_batches):
                            loss = engine(torch.ones(4, 33)).square().mean()
                            engine.backward(loss, is_last=number == micro_batches - 1)
                        engine.step(1e-3)
                    counting[0] = False
                    said = fsdp_payloads(
                        groups, copy, world.size // copy, zero_stage=stage, bf16=precision == "bf16",
                        micro_batches=micro_batches, reduces_last=reduce == "last",
                    )
                    pairs[f"{precision} {stage} {micro_batches} {reduce} {copy}"] = [dict(sent), said]
if world.rank == 0:
    Path(sys.argv[1]).write_text(json.dumps(pairs))
ranks.stop(world)
"""
)


@pytest.mark.multiprocess
@pytest.mark.full
@pytest.mark.parametrize("ranks", [2, 4])
def test_payloads_of_fsdp2_are_those_of_its_collectives(ranks: int, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FSDP)
    run_ranks(ranks, str(tmp_path / "program.py"), str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 16 * (ranks // 2)
    for name, (calls, said) in found.items():
        for kind in {*calls, *said}:
            assert calls.get(kind, 0) == pytest.approx(said.get(kind, 0), rel=0.01, abs=100), (name, kind)
