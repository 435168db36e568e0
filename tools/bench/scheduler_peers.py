"""Schedulers of diffusers, and for each this project's solver that takes the same steps.

`schedulers.py` takes the steps of both from equal outputs of a network and equal draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor

from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Prediction
from core.diffusion.solvers.kinds import SolverName
from core.diffusion.solvers.levels import DEFAULTS, ChurnConfig, Options, levels_at

STEPS = 20
CHAIN_TIMES = [(1000 - number * (1000 // STEPS)) / 1000 for number in range(STEPS)]
FLOW_TIMES = [1 - number / STEPS for number in range(STEPS)]
CHURN = ChurnConfig(amount=4)

Take = Callable[["Peer", Any, Tensor, Sequence[Tensor]], Tensor]
"""All steps of a scheduler from a state, with an output for each evaluation."""


@dataclass(frozen=True)
class Peer:
    """A scheduler of diffusers, and the solver of ours that takes the same steps.

    kind, fields: its class and what it is made with.  more: further arguments of a step.  asks: arguments of
    set_timesteps.  solver, options, path, prediction: ours.  times: of our steps; None for those of its
    sigmas.  is_scaled: whether it keeps x / alpha.  differs: why its end is not ours; "" where it is.
    """

    kind: str
    fields: dict[str, Any]
    solver: SolverName
    options: Options = DEFAULTS
    path: PathName = "ddpm_linear"
    prediction: Prediction = "noise"
    times: Sequence[float] | None = field(default_factory=lambda: CHAIN_TIMES)
    asks: dict[str, Any] = field(default_factory=lambda: {"num_inference_steps": STEPS})
    more: dict[str, Any] = field(default_factory=dict)
    is_scaled: bool = False
    differs: str = ""
    take: Take = lambda peer, scheduler, x, outputs: step_by_step(peer, scheduler, x, outputs)


def step_by_step(peer: Peer, scheduler: Any, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """Take the steps as a pipeline of diffusers does."""
    scales_input = hasattr(scheduler, "scale_model_input")
    for output, time in zip(outputs, scheduler.timesteps, strict=False):
        if scales_input:
            scheduler.scale_model_input(x, time)
        x = scheduler.step(output, time, x, **peer.more).prev_sample
    return x


def predicted_and_corrected(peer: Peer, scheduler: Any, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """Take the steps of its SDE of growing variance, a correction in each."""
    given = iter(outputs)
    for time in scheduler.timesteps:
        x = scheduler.step_correct(next(given), x).prev_sample
        x = scheduler.step_pred(next(given), time, x).prev_sample
    return x


def churned(peer: Peer, scheduler: Any, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """Take Heun's steps from raised noise, along the levels of our path."""
    given = iter(outputs)
    sigmas = [level.sigma for level in levels_at(make_path(peer.path), [*(peer.times or ()), 0.0])]
    for sigma, there in pairwise(sigmas):
        raised, hat = scheduler.add_noise_to_input(x, sigma)
        found = scheduler.step(next(given), hat, there, raised)
        if there:
            slope = found.derivative
            found = scheduler.step_correct(next(given), hat, there, raised, found.prev_sample, slope)
        x = found.prev_sample
    return x


_CHAIN = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
_TRAILING = {**_CHAIN, "timestep_spacing": "trailing"}
_PLAIN = {**_TRAILING, "clip_sample": False}
_MULTISTEP = {**_TRAILING, "final_sigmas_type": "zero", "lower_order_final": False}
_SDE = {**_MULTISTEP, "algorithm_type": "sde-dpmsolver++"}
_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
_ON_FLOW: dict[str, Any] = {"path": "rectified_flow", "prediction": "flow"}
_ON_EDM: dict[str, Any] = {"path": "edm", "prediction": "edm", "times": None}
_OWN_FLOW: dict[str, Any] = {**_ON_FLOW, "times": None}
_EVEN: dict[str, Any] = {**_ON_FLOW, "times": FLOW_TIMES, "asks": {"sigmas": FLOW_TIMES}}
_EDM = {"sigma_data": 1.0}

PEERS: dict[str, Peer] = {
    "ddpm": Peer("DDPMScheduler", {**_PLAIN, "variance_type": "fixed_small"}, "ddpm"),
    "ddim": Peer("DDIMScheduler", _PLAIN, "ddim"),
    "ddim, eta=0.6": Peer("DDIMScheduler", _PLAIN, "ddim", Options(eta=0.6), more={"eta": 0.6}),
    "euler": Peer("EulerDiscreteScheduler", _TRAILING, "euler", is_scaled=True),
    "euler ancestral": Peer(
        "EulerAncestralDiscreteScheduler", _TRAILING, "ddim", Options(eta=1.0), is_scaled=True
    ),
    "heun": Peer(
        "HeunDiscreteScheduler",
        _TRAILING,
        "heun",
        is_scaled=True,
        differs="it integrates in sigma / alpha",
    ),
    "dpmpp_2m": Peer("DPMSolverMultistepScheduler", {**_MULTISTEP, "solver_order": 2}, "dpmpp_2m"),
    "dpmpp_3m": Peer(
        "DPMSolverMultistepScheduler",
        {**_MULTISTEP, "solver_order": 3},
        "dpmpp_3m",
        differs="it halves the second difference",
    ),
    "dpmpp_3m_diffusers": Peer(
        "DPMSolverMultistepScheduler", {**_MULTISTEP, "solver_order": 3}, "dpmpp_3m_diffusers"
    ),
    "dpmpp_2s": Peer(
        "DPMSolverSinglestepScheduler",
        {**_CHAIN, "solver_order": 2, "lower_order_final": True},
        "dpmpp_2s",
        times=CHAIN_TIMES[::2],
        differs="its second evaluation is at a time of the grid, not half-way in log(alpha / sigma)",
    ),
    "unipc_1": Peer("UniPCMultistepScheduler", {**_TRAILING, "solver_order": 1}, "unipc_1"),
    "unipc_2": Peer("UniPCMultistepScheduler", {**_TRAILING, "solver_order": 2}, "unipc_2"),
    "unipc_3": Peer(
        "UniPCMultistepScheduler",
        {**_TRAILING, "solver_order": 3},
        "unipc_3",
        differs="its last steps are of lower order",
    ),
    "sde_dpmpp": Peer("DPMSolverMultistepScheduler", {**_SDE, "solver_order": 1}, "sde_dpmpp"),
    "sde_dpmpp_2m": Peer("DPMSolverMultistepScheduler", {**_SDE, "solver_order": 2}, "sde_dpmpp_2m"),
    "renoise": Peer(
        "LCMScheduler", {**_CHAIN, "original_inference_steps": STEPS, "timestep_scaling": 1e3}, "renoise"
    ),
    "euler, flow": Peer("FlowMatchEulerDiscreteScheduler", {}, "euler", **_EVEN),
    "renoise, flow": Peer(
        "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "renoise", **_EVEN
    ),
    "heun, flow": Peer("FlowMatchHeunDiscreteScheduler", {}, "heun", **_OWN_FLOW),
    "dpmpp_2m, flow": Peer(
        "DPMSolverMultistepScheduler", {**_FLOW, "solver_order": 2}, "dpmpp_2m", **_OWN_FLOW
    ),
    "unipc_2, flow": Peer("UniPCMultistepScheduler", {**_FLOW, "solver_order": 2}, "unipc_2", **_OWN_FLOW),
    "mean_flow": Peer("FlowMapEulerDiscreteScheduler", {}, "mean_flow", **_EVEN),
    "euler, edm": Peer("EDMEulerScheduler", _EDM, "euler", **_ON_EDM),
    "dpmpp_2m, edm": Peer(
        "EDMDPMSolverMultistepScheduler", {**_EDM, "solver_order": 2}, "dpmpp_2m", **_ON_EDM
    ),
    "edm": Peer(
        "KarrasVeScheduler",
        {"s_churn": CHURN.amount, "s_min": 0.0, "s_max": 1e9},
        "edm",
        Options(churn=CHURN),
        path="edm",
        prediction="noise",
        times=FLOW_TIMES,
        differs="it integrates in sigma",
        take=churned,
    ),
    "langevin": Peer(
        "ScoreSdeVeScheduler",
        {"num_train_timesteps": STEPS},
        "langevin",
        path="variance_exploding",
        prediction="score",
        times=FLOW_TIMES,
        differs="its corrections are as long as norms over the batch say",
        take=predicted_and_corrected,
    ),
}
WITHOUT: dict[SolverName, str] = {
    "midpoint": "its KDPM2 takes the middle in log(sigma / alpha)",
    "rk4": "none",
    "euler_maruyama": "its ScoreSdeVp is of another diffusion, and takes its evaluations at random times",
    "restart": "none",
    "dopri5": "none",
}
"""Solvers of ours that no scheduler of diffusers corresponds to."""
