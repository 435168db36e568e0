"""Activations of a plan beside the tensors that autograd saves on ranks that share the weights too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.core.ranks import run_ranks
from tests.tools.plan.networks import CASES
from tests.tools.plan.test_activations import counted

PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from core.distributed import ranks
from core.engine.kinds import make_engine
from core.optim.groups import OptimizerConfig
from models.denoisers.network import example_inputs
from tests.tools.plan.networks import CASES
from tests.tools.plan.test_activations import SAMPLES

folder = Path(sys.argv[1])
world = ranks.start("cpu", 60, folder=folder)
found = {}
for name, case in CASES.items():
    if " none " not in name:
        continue
    torch.manual_seed(0)
    engine = make_engine(case.model.build(), replace(case.engine, zero_stage=3), OptimizerConfig(), world)
    inputs = example_inputs(case.model, (SAMPLES, *case.shape), world.device, case.text_tokens)
    saved = {}
    def keep(tensor):
        weights = {p.data.untyped_storage().data_ptr() for p in engine.module.parameters()}
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved.setdefault(storage.data_ptr(), (tensor, storage.nbytes()))
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = engine(*inputs).square().mean()
    found[name] = sum(size for _, size in saved.values())
    engine.backward(loss)
    engine.step(1e-3)
if world.rank == 0:
    (folder / "found.json").write_text(json.dumps(found))
ranks.stop(world)
"""


@pytest.mark.multiprocess
@pytest.mark.full
def test_what_ranks_keep_that_share_weights_is_what_a_plan_counts(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    run_ranks(2, str(tmp_path / "program.py"), str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 6
    for name, held in found.items():
        assert counted(CASES[name]) == pytest.approx(held, rel=0.1), name
