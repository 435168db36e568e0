"""At ZeRO stage 3 the functions between layers are compiled: without breaks under its hooks, and equal."""

from __future__ import annotations

import json

import pytest

from core.distributed import ranks
from tests.core.ranks import run_ranks
from tests.tools.train import compiled_functions_run
from tests.tools.train.compiled_functions_run import SHAPES, train


@pytest.mark.multiprocess
def test_functions_are_whole_graphs_and_equal_on_ranks_that_share_the_weights() -> None:
    """Each is compiled with fullgraph=True, so a break within one would end the run."""
    for printed in run_ranks(2, compiled_functions_run.__file__):
        found = json.loads(printed.splitlines()[-1])
        graphs = (
            6  # norm_modulate for strides of blocks and of the end, gated_norm_modulate, gated, gelu, rotate
        )
        assert found["graphs"] == [graphs * len(SHAPES), 0]
        assert found["compiled"] == pytest.approx(found["eager"], rel=1e-6)


@pytest.mark.cuda
def test_inductor_s_functions_are_equal_on_a_gpu() -> None:
    world = ranks.start("cuda", 60)
    eager, _ = train(world, compile=False, device=world.device)
    compiled, (_, later) = train(world, compile=True, device=world.device)
    assert compiled == pytest.approx(eager, rel=1e-4)
    assert later == 0
