"""How often a solver's step goes over the state, beside the network: counted, not timed. Run: pytest FILE"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.diffusion.estimating import estimated
from core.diffusion.grids import make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Prediction
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import ChurnConfig, Estimate, Level, Options, RestartConfig

SHAPE = (2, 4, 4, 4)
PASSES: dict[SolverName, int] = {
    "euler": 2,
    "ddim": 2,
    "ddpm": 3,
    "renoise": 2,
    "heun": 6,
    "midpoint": 5,
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
    "edm": 8,
    "restart": 6,
    "mean_flow": 2,
}
"""Of a step amid others: each reads one or two tensors of the size of the state and writes one."""
FROM_FLOW: dict[SolverName, int] = {
    "euler": 1,
    "ddim": 1,
    "mean_flow": 1,
    "midpoint": 2,
    "heun": 4,
    "dpmpp_2m": 4,
    "unipc_2": 8,
    "renoise": 3,
}
FROM_NOISE: dict[SolverName, int] = {
    "euler": 2,
    "ddim": 2,
    "ddpm": 5,
    "heun": 7,
    "dpmpp_2m": 5,
    "unipc_2": 9,
    "sde_dpmpp": 5,
}
"""The same from an output of the network, on rectified flow and on a chain."""
OPTIONS: dict[str, Options] = {
    "euler_maruyama": Options(eta=0.5),
    "edm": Options(churn=ChurnConfig(amount=4)),
    "restart": Options(restart=RestartConfig(low=0.1, high=0.101)),  # one time: nothing is repeated
}


class Counted(TorchDispatchMode):
    """Counts operations whose result has the shape of the state."""

    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        super().__init__()
        self._shape, self.count = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.shape == self._shape:
            self.count += 1
        return found


def passes(
    solver: SolverName, steps: int, name: PathName = "ddpm_linear", prediction: Prediction | None = None
) -> int:
    """Return the passes of all steps.  prediction: of the outputs; None where data and noise are given."""
    path, answer = make_path(name), torch.ones(SHAPE)

    def denoise(x: Tensor, level: Level) -> Estimate:
        if prediction is None:
            return Estimate(answer, answer)
        return estimated(prediction, answer, x, level, None)

    times, options = make_grid("even", path, steps, 0.9), OPTIONS.get(solver, Options())
    with Counted() as counted:
        KINDS[solver].solve(denoise, answer, times, path, noise=lambda number: answer, options=options)
    return counted.count


@pytest.mark.parametrize("solver", [name for name, kind in KINDS.items() if not kind.is_adaptive])
def test_a_step_goes_over_the_state_so_often(solver: SolverName) -> None:
    """The first steps and the last one differ: one more step is one amid others."""
    assert passes(solver, 12) - passes(solver, 11) == PASSES[solver]


@pytest.mark.parametrize("solver", FROM_FLOW)
def test_so_often_from_the_flow_that_a_network_predicts(solver: SolverName) -> None:
    found = (passes(solver, steps, "rectified_flow", "flow") for steps in (12, 11))
    assert next(found) - next(found) == FROM_FLOW[solver]


@pytest.mark.parametrize("solver", FROM_NOISE)
def test_so_often_from_the_noise_that_a_network_predicts(solver: SolverName) -> None:
    found = (passes(solver, steps, "ddpm_linear", "noise") for steps in (12, 11))
    assert next(found) - next(found) == FROM_NOISE[solver]
