"""Settings of sampling, and the grid of times that they give on a path."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from core.config.settings import setting
from core.diffusion.amplification import GridOf, largest_start, require_sound_start, sound_steps
from core.diffusion.grids import Grid, make_grid, own_grid
from core.diffusion.guidance.config import GuideConfig
from core.diffusion.guidance.mixing import Guidance, GuidanceKind
from core.diffusion.paths.path import Path
from core.diffusion.predictions import Prediction
from core.diffusion.solvers.default_grids import best_grid
from core.diffusion.solvers.kinds import KINDS, SolverName, require_for_frames, require_taken
from core.diffusion.solvers.levels import (
    AdaptiveConfig,
    ChurnConfig,
    CorrectorConfig,
    Options,
    RestartConfig,
    Variance,
)
from core.diffusion.thresholds import ThresholdConfig
from core.errors import UserError, below


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    solver: SolverName = setting(
        "euler",
        "how to step from noise to data. ddpm, renoise, the sde solvers, langevin, edm, restart and "
        "euler_maruyama draw noise in every step, ddim where eta is above 0 (docs/method.md); renoise is "
        "meant for networks of consistency and distillation, and halves the variance with others",
    )
    steps: int = setting(
        50,
        "number of steps; midpoint, heun and dpmpp_2s evaluate the network twice per step, rk4 four times",
        low=1,
    )
    grid: Literal["auto", Grid] = setting(
        "auto",
        "spacing of the times of the steps; auto is the best measured for solver and path; meta and "
        "meta_ddim are the respacings STEPS and ddimSTEPS of the published DiT",
    )
    sections: tuple[int, ...] = setting(
        (),
        "grid=meta: steps in each of equal sections of the chain, from data on (the respacing A,B,...); "
        "they add up to steps",
    )
    times: tuple[float, ...] = setting(
        (), "explicit times of the steps instead of a grid, descending from start"
    )
    eta: float = setting(
        0.0,
        "ddim, langevin: amount of noise drawn per step; 0 none, 1 as the ancestral sampler; "
        "euler_maruyama: half of w / r (docs/method.md), 0.5 as SiT",
        low=0,
        high=1,
    )
    variance: Variance = setting(
        "auto",
        "ddpm: variance of a step: small (the posterior's), large (the forward step's), interpolated "
        "between them, or auto: the learned one if there is one, else small",
    )
    variance_share: float = setting(
        0.5, "variance=interpolated: 0 is small, 1 large, linear in their logarithms", low=0, high=1
    )
    churn: ChurnConfig = setting(ChurnConfig(), "settings of solver=edm")
    corrector: CorrectorConfig = setting(CorrectorConfig(), "settings of solver=langevin")
    restart: RestartConfig = setting(RestartConfig(), "settings of solver=restart")
    adaptive: AdaptiveConfig = setting(AdaptiveConfig(), "settings of solver=dopri5")
    threshold: ThresholdConfig = setting(ThresholdConfig(), "bound on the estimated data")
    guidance: float = setting(1.0, "classifier-free guidance scale; 1 is off", low=0)
    guidance_start: float = setting(1.0, "largest time at which guidance acts", low=0, high=1)
    guidance_end: float = setting(0.0, "smallest time at which guidance acts", low=0, high=1)
    guidance_kind: GuidanceKind = setting(
        "cfg",
        "cfg: linear extrapolation; cfg_zero: with the unconditional output rescaled; apg: without the "
        "component parallel to the prediction",
    )
    guidance_rescale: float = setting(
        0.0,
        "share by which guided data are rescaled to the standard deviation of unguided data",
        low=0,
        high=1,
    )
    guidance_channels: int = setting(
        0, "number of leading channels that are guided; 0 is all; the published DiT guides 3", low=0
    )
    guidance_limit: float = setting(
        0.0, "apg: largest norm of the guidance difference, per number of the sample; 0 is no limit", low=0
    )
    guide: GuideConfig = setting(GuideConfig(), "further guidance")
    start: float | Literal["auto"] = setting(
        1.0,
        "time to start from, between 0.5 and 1 (pure noise); auto is the largest from which no step "
        "greatly amplifies errors of the network",
    )
    frame_lag: int = setting(
        0,
        "steps by which each group of latent frames lags behind the previous one: 0 denoises all "
        "together, the number of steps one after another, values between a rolling window; needs "
        "model.frame_levels",
        low=0,
    )
    shift: float = setting(
        1.0, "shift of times towards noise, for large inputs; 1 is the shift of training, see shift_from"
    )
    shift_from: Literal["training", "sampler"] = setting(
        "training", "what shift=1 means: the shift that the run was trained with, or none"
    )

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise UserError("shift", self.shift, "a number above 0")
        require_taken(self.solver, self.options)
        if self.variance_share != 0.5 and self.variance != "interpolated":
            raise UserError("variance_share", self.variance_share, f"0.5 with variance={self.variance}")
        if self.start != "auto" and not 0.5 <= self.start <= 1:
            raise UserError("start", self.start, "auto, or a time of at least 0.5 and at most 1")
        if self.guidance_limit and self.guidance_kind != "apg":
            expected = f"0 with guidance_kind={self.guidance_kind}"
            raise UserError("guidance_limit", self.guidance_limit, expected)
        if self.sections and (
            self.grid != "meta" or sum(self.sections) != self.steps or min(self.sections) < 1
        ):
            expected = f"numbers above 0 whose sum is steps={self.steps}, with grid=meta"
            raise UserError("sections", list(self.sections), expected)
        if self.times and self.grid != "auto":
            raise UserError("grid", self.grid, "auto where times are given")
        if self.times and self.shift != 1:
            raise UserError("shift", self.shift, "1 where times are given")
        with below("guide"):
            self.guide.require_fitting(self.guidance_kind, self.guidance, self.steps)
        if self.guidance_start < self.guidance_end:
            raise UserError(
                "guidance_start", self.guidance_start, f"at least guidance_end={self.guidance_end}"
            )
        require_own_levels(self)

    @property
    def mixing(self) -> Guidance:
        limit, channels = self.guidance_limit, self.guidance_channels
        return Guidance(self.guidance_kind, self.guidance_rescale, channels, limit)

    @property
    def options(self) -> Options:
        of_solvers = self.churn, self.corrector, self.restart, self.adaptive
        return Options(self.eta, self.variance, self.variance_share, *of_solvers)


def require_one_level(config: SamplerConfig, of: str, prediction: Prediction | None = None) -> None:
    """Refuse settings that go by the level of noise, where that is not one for all.

    of: whose levels differ.  prediction: of the network, None where that is not known yet.
    """
    guide, why = config.guide, f"since {of} have levels of their own"
    if prediction == "posterior_mean":
        network = f"for a network that predicts the posterior mean, {why}"
        if config.frame_lag:
            raise UserError("frame_lag", config.frame_lag, f"0 {network}")
        if KINDS[config.solver].is_adaptive:
            raise UserError("solver", config.solver, f"another {network}")
        raise UserError(f"expected a run of another prediction than posterior_mean, {why}")
    for field, value, usual in (
        ("guidance_start", config.guidance_start, 1),
        ("guidance_end", config.guidance_end, 0),
        ("guide.classifier", guide.classifier, 0),
        ("guide.zero_steps", guide.zero_steps, 0),
        ("guide.momentum", guide.momentum, 0),
    ):
        if value != usual:
            raise UserError(field, value, f"{usual}, {why}")


def require_own_levels(config: SamplerConfig, prediction: Prediction | None = None) -> None:
    """Refuse what a lag of frames, or a solver whose samples take steps of their own, cannot go with."""
    if config.frame_lag:
        require_for_frames(config.solver)
        require_one_level(config, "frames that lag", prediction)
    if KINDS[config.solver].is_adaptive:
        require_one_level(config, f"samples of solver={config.solver}", prediction)


def check_start(config: SamplerConfig, path: Path, prediction: Prediction) -> str:
    """Refuse a start from which the network's errors would drown the data; return a warning, or ""."""
    config = settle_start(config, path, prediction)
    grid, start = _grid_by_start(config, path, prediction), float(config.start)
    return require_sound_start(grid, start, prediction, path, bounded=config.threshold.kind != "none")


def settle_start(config: SamplerConfig, path: Path, prediction: Prediction) -> SamplerConfig:
    """Replace `auto` by the largest start from which no step enlarges errors much; UserError without one."""
    if config.start != "auto":
        return config
    if config.times:
        return replace(config, start=config.times[0])
    grid = _grid_by_start(config, path, prediction)
    grid(1.0)  # refuses what is wrong whatever the start
    if not (found := largest_start(grid, prediction, path)):
        why = f"no start of {path.name} keeps errors of {prediction} prediction small in {config.steps} steps"
        if other := sound_steps(grid, prediction, path, 1.0, config.steps):
            raise UserError("steps", config.steps, f"{other}: {why}")
        raise UserError("start", "auto", f"a number, with a threshold: {why}")
    return replace(config, start=found)


def _grid_by_start(config: SamplerConfig, path: Path, prediction: Prediction) -> GridOf:
    def grid(start: float, steps: int | None = None) -> list[float]:
        return time_grid(replace(config, start=start, steps=steps or config.steps), path, prediction)

    return grid


def time_grid(
    config: SamplerConfig, path: Path, prediction: Prediction, start: float | None = None
) -> list[float]:
    """Return steps + 1 falling times to 0 from a start, None for that of the config.

    `auto` is what was measured to be best for the solver on the path.
    """
    begins = float(config.start) if start is None else start
    if config.times:
        return own_grid(config.times, path, config.steps, begins)
    best = best_grid(config.solver, config.steps, path, prediction)
    kind = best if config.grid == "auto" else config.grid
    return make_grid(kind, path, config.steps, begins, config.shift, config.sections)
