"""How often a solver's step goes over the state, beside the network: counted, not timed. Run: pytest FILE"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.diffusion.grids import make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import ChurnConfig, Estimate, Level, Options, RestartConfig

SHAPE = (2, 4, 4, 4)
PASSES: dict[SolverName, int] = {
    "euler": 2,
    "ddim": 2,
    "ddpm": 3,
    "renoise": 2,
    "heun": 8,
    "midpoint": 6,
    "rk4": 16,
    "dpmpp_2m": 3,
    "dpmpp_2s": 4,
    "dpmpp_3m": 4,
    "dpmpp_3m_diffusers": 4,
    "unipc_1": 5,
    "unipc_2": 7,
    "unipc_3": 9,
    "sde_dpmpp": 3,
    "sde_dpmpp_2m": 4,
    "euler_maruyama": 4,
    "langevin": 4,
    "edm": 10,
    "restart": 8,
    "mean_flow": 2,
}
"""Of a step amid others: each reads one or two tensors of the size of the state and writes one."""
OPTIONS: dict[str, Options] = {
    "euler_maruyama": Options(eta=0.5),
    "edm": Options(churn=ChurnConfig(amount=4)),
    "restart": Options(restart=RestartConfig(low=0.1, high=0.101)),  # one time: nothing is repeated
}


class Counted(TorchDispatchMode):
    """Counts operations whose result is as large as the state."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.shape == SHAPE:
            self.count += 1
        return found


def passes(solver: SolverName, steps: int) -> int:
    path, answer = make_path("ddpm_linear"), torch.ones(SHAPE)

    def denoise(x: Tensor, level: Level) -> Estimate:
        return Estimate(answer, answer)

    times, options = make_grid("even", path, steps, 0.9), OPTIONS.get(solver, Options())
    with Counted() as counted:
        KINDS[solver].solve(denoise, answer, times, path, noise=lambda number: answer, options=options)
    return counted.count


@pytest.mark.parametrize("solver", [name for name, kind in KINDS.items() if not kind.is_adaptive])
def test_a_step_goes_over_the_state_so_often(solver: SolverName) -> None:
    """The first steps and the last one differ: one more step is one amid others."""
    assert passes(solver, 12) - passes(solver, 11) == PASSES[solver]
