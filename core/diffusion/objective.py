"""The training objective: path x prediction x weighting x distribution of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from core.batch import Condition
from core.config.settings import setting
from core.diffusion import predictions, timesteps
from core.diffusion.conditioning import drop_condition
from core.diffusion.frames.training_levels import (
    FrameTimes,
    GivenConfig,
    draw_times,
    give_frames,
    wide,
)
from core.diffusion.objectives.consistency import ConsistencyConfig, Teacher, consistency_loss, neighbours
from core.diffusion.objectives.denoising import denoising_loss
from core.diffusion.objectives.kinds import KINDS, ObjectiveKind
from core.diffusion.objectives.mean_flow import MeanFlowConfig, mean_flow_loss, step_times
from core.diffusion.objectives.noised import Model, NoisyBatch
from core.diffusion.objectives.own import LogVariance, Own, OwnParameters
from core.diffusion.paths.config import SIGMAS, PathRecord, ScheduleConfig, path_record, require_path
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Before, Prediction, level_before
from core.diffusion.time_density import read_density
from core.diffusion.timesteps import TimestepConfig
from core.diffusion.weightings import SPACED, LossSpace, Weighting, training_weight
from core.draws import Draws
from core.errors import UserError, below
from core.losses import Losses


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    kind: ObjectiveKind = setting(
        "denoising",
        "denoising: what the data are at one time; for samples of one to four steps mean_flow, consistency, "
        "and distillation of the run that the job's `initial` names (docs/method.md)",
    )
    mean_flow: MeanFlowConfig = setting(MeanFlowConfig(), "for kind=mean_flow")
    consistency: ConsistencyConfig = setting(ConsistencyConfig(), "for kind=consistency and distillation")
    path: PathName = setting("rectified_flow", "how data turns into noise")
    schedule: ScheduleConfig = setting(ScheduleConfig(), "parameters of the path")
    prediction: Prediction = setting(
        "flow", "what the network predicts; docs/method.md has the formulas, and what goes with which path"
    )
    timesteps: TimestepConfig = setting(TimestepConfig(), "which times are trained")
    weighting: Weighting = setting(
        "uniform",
        "weight of a time's squared error, the same for all predictions (docs/method.md); learned: 1 over "
        "what the squared error is found to be at its level of noise",
    )
    loss_space: LossSpace = setting(
        "", "uniform, learned: the prediction whose error is squared; '' is the one that the network makes"
    )
    min_snr_gamma: float = setting(
        5.0, "min_snr: the signal-to-noise ratio above which x0 errors weigh the same"
    )
    p2_gamma: float = setting(1.0, "p2: the power of 1 / (1 + signal-to-noise ratio)", low=0)
    edm_deviation: float = setting(1.0, "edm: standard deviation of the latents", low=1e-3)
    sigmoid_bias: float = setting(
        0.0,
        "sigmoid: the log signal-to-noise ratio of which noise errors weigh half as much as of pure noise",
    )
    label_dropout: float = setting(0.1, "share of samples trained without label and text", low=0, high=1)
    class_dropout: float = setting(
        0.0,
        "share of the others trained without label alone; lets samples guide both by own scales",
        high=1,
        low=0,
    )
    text_dropout: float = setting(0.0, "the same without text alone", low=0, high=1)
    given_frames: float = setting(
        0.5,
        "share of clips trained with frames given, where the model takes frames or levels of frames",
        low=0,
        high=1,
    )
    given: GivenConfig = setting(GivenConfig(), "which frames are given")
    frame_times: FrameTimes = setting(
        "shared",
        "noise of the frames of a clip, with model.frame_levels: independent of each other, monotone rising, "
        "or prefix, a clean start of any length",
    )
    learned_sigma: bool = setting(False, "also train the variance of a step back, which the model predicts")
    bound_weight: float = setting(0.001, "learned_sigma: weight of the whole variational bound", low=0)

    def __post_init__(self) -> None:
        with below("schedule"):
            require_path(self.path, self.schedule)
        KINDS[self.kind].require(self.kind, self.path, self.prediction)
        self._require_possible()
        if self.learned_sigma and (self.prediction != "noise" or not self.path.startswith("ddpm_")):
            raise UserError("learned_sigma", True, "false unless path is a ddpm one and prediction=noise")
        if self.min_snr_gamma <= 0:
            raise UserError("min_snr_gamma", self.min_snr_gamma, "a number above 0")
        if self.frame_times == "prefix" and self.given_frames:
            expected = "0 with frame_times=prefix, which gives first frames itself"
            raise UserError("given_frames", self.given_frames, expected)
        if self.frame_times in ("independent", "monotone") and self.timesteps.stratified:
            expected = f"shared or prefix with timesteps.stratified, not {self.frame_times}"
            raise UserError("frame_times", self.frame_times, expected)
        if self.kind != "denoising":
            plain = {
                "weighting": "uniform",
                "loss_space": "",
                "learned_sigma": False,
                "frame_times": "shared",
            }
            for field, usual in plain.items():
                if (value := getattr(self, field)) != usual:
                    raise UserError(field, value, f"{usual or repr('')} with kind={self.kind}")
        if self.loss_space and self.weighting not in SPACED:
            raise UserError("loss_space", self.loss_space, f"'' with weighting={self.weighting}")

    def _require_plain(self) -> None:
        """Refuse what objectives of few steps have no form for."""
        plain = {"weighting": "uniform", "loss_space": "", "learned_sigma": False, "frame_times": "shared"}
        for field, usual in plain.items():
            if (value := getattr(self, field)) != usual:
                shown = {"": "''", False: "false"}.get(usual, usual)
                raise UserError(field, value, f"{shown} with kind={self.kind}")

    def dropout_of(self, part: Literal["label", "text"]) -> float:
        """Return the share of samples from which a condition is taken, alone or with the other."""
        alone = self.class_dropout if part == "label" else self.text_dropout
        return self.label_dropout + (1 - self.label_dropout) * alone if alone else self.label_dropout

    @property
    def parameter(self) -> float:
        """The parameter of the weighting, 0 for one without."""
        parameters = {
            "min_snr": self.min_snr_gamma,
            "p2": self.p2_gamma,
            "edm": self.edm_deviation,
            "sigmoid": self.sigmoid_bias,
        }
        return parameters.get(self.weighting, 0.0)

    def _require_possible(self) -> None:
        """Raise UserError where a prediction is undefined on the path, or trains nothing there."""
        for field, kind in (("prediction", self.prediction), ("loss_space", self.loss_space)):
            if kind == "posterior_mean" and not self.path.startswith("ddpm_"):
                expected = f"another: path={self.path} is no chain, whose steps the posterior mean is of"
                raise UserError(field, kind, expected)
            if kind == "v" and self.path in SIGMAS:
                raise UserError(field, kind, f"edm, the same in unit size, with path={self.path}")
        if self.schedule.zero_terminal_snr and self.prediction in ("noise", "score"):
            expected = "v, data, flow or edm with schedule.zero_terminal_snr: without signal it says nothing"
            raise UserError("prediction", self.prediction, expected)
        if self.prediction == "score" and self.loss_space in ("", "score") and self.weighting in SPACED:
            expected = "noise with prediction=score, whose own errors grow without bound near data"
            raise UserError("loss_space", self.loss_space or "''", expected)


class Objective:
    """The loss of a denoiser on clean data; every random number in it is keyed by the sample.

    frame_condition: whether the model takes given frames; then every sample brings a mask, perhaps of zeros.
    frames_per_level: latent frames of which the network is told one level of noise; 0 is all of them.
    path: as the run records it; None is that of the config, whose file of rates is then read.
    density: of times, likewise.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        *,
        frame_condition: bool = False,
        frames_per_level: int = 0,
        path: PathRecord | None = None,
        density: Sequence[float] | None = None,
    ) -> None:
        self.config, self.frame_condition, self.unit = config, frame_condition, frames_per_level
        self._own: Own = _without
        self._teacher: Teacher | None = None
        file = config.timesteps.density
        self._density = density if density is not None else read_density(file) if file else ()
        require_levels(config, frames_per_level)
        self.path = make_path(path or path_record(config.path, config.schedule))

    def own_parameters(self) -> OwnParameters | None:
        """Make the objective's own parameters, from torch's generator; None where it has none."""
        parts = {"log_variance": LogVariance()} if self.config.weighting == "learned" else {}
        return OwnParameters(parts) if parts else None

    def use(self, own: Own) -> None:
        """Take the objective's own parameters, called by the name of a part."""
        self._own = own

    def learn_from(self, teacher: Model) -> None:
        """Take the trained network that kind=distillation distils, of the same prediction."""
        self._teacher = Teacher(teacher, self.config.prediction)

    def loss(self, model: Model, x0: Tensor, condition: Condition, draws: Draws) -> Losses:
        """Return the mean weighted squared error per sample.

        x0: (B, C, T, H, W) float32.  model(x_t, time_input, condition) -> (B, C or 2C, T, H, W); the upper
        half is the variance, and goes unused where that is not trained.
        """
        return self.loss_of(model, self.noised(x0, condition, draws))

    def noised(self, x0: Tensor, condition: Condition, draws: Draws) -> NoisyBatch:
        """Compute the part of `loss` before the network."""
        config, path = self.config, self.path
        condition = drop_condition(condition, draws.uniform("condition_dropout") < config.label_dropout)
        for share, part in ((config.class_dropout, "label"), (config.text_dropout, "text")):
            if share:
                dropped = draws.uniform(f"{part}_dropout") < share
                condition = drop_condition(condition, dropped, label=part == "label", text=part == "text")
        if self.frame_condition or self.unit:
            given, unit = config.given, self.unit or 1
            condition = give_frames(condition, x0, draws, config.given_frames, given, unit)
        positions, density = x0.shape[2:].numel(), self._density
        if self.unit:
            mask = None if condition.frame_mask is None else condition.frame_mask[:, :: self.unit]
            groups = x0.shape[2] // self.unit
            t = draw_times(
                config.frame_times, config.timesteps, path, draws, groups, positions, mask, density
            )
        else:
            uniforms = timesteps.uniforms(config.timesteps, draws)
            t = timesteps.draw(config.timesteps, path, uniforms, positions, density)
        noise, end = draws.normal("noise", tuple(x0.shape[1:])), None
        if config.kind == "mean_flow":
            other = timesteps.draw(config.timesteps, path, draws.uniform("end_time"), positions, density)
            t, end = step_times(config.mean_flow, t, other, draws)
        elif config.kind != "denoising":
            t, end = neighbours(config.consistency, t, draws.step_index)
        noised = self.noised_at(x0, condition, t, noise)
        return noised if end is None else replace(noised, noise=noise, end=end)

    def noised_at(self, x0: Tensor, condition: Condition, t: Tensor, noise: Tensor) -> NoisyBatch:
        """Return the batch at times t: (B,), or (B, T / unit) where frames have levels of their own."""
        path, told = self.path, self.path.time_input(t)
        if t.ndim == 2:
            t = t.repeat_interleave(self.unit, 1)
        alpha, sigma = wide(path.alpha(t)), wide(path.sigma(t))
        target = predictions.target(self.config.prediction, x0, noise, *self._levels(t, alpha, sigma))
        x_t, weight = alpha * x0 + sigma * noise, self._weight(t)
        if t.ndim == 2:
            target = torch.where(wide(t) > 0, target, 0.0)
            weight = None if weight is None else torch.where(t > 0, weight, 0.0)
        return NoisyBatch(x0, x_t, target, t, told, alpha, sigma, weight, condition)

    def loss_of(self, model: Model, noised: NoisyBatch) -> Losses:
        """Compute the part of `loss` from the network on."""
        config, path = self.config, self.path
        if config.kind == "mean_flow":
            return mean_flow_loss(model, noised, path, config.mean_flow)
        if config.kind != "denoising":
            return consistency_loss(model, noised, path, config.prediction, config.consistency, self._teacher)
        return denoising_loss(
            model,
            noised,
            path,
            bound_weight=config.bound_weight if config.learned_sigma else None,
            log_variance=self._own if config.weighting == "learned" else None,
        )

    def _levels(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Before]:
        """Return what a target is made with: the levels, and those of the step before where it needs them."""
        if self.config.prediction != "posterior_mean":
            return alpha, sigma, None
        before = [wide(level.float()) for level in level_before(self.path, t)]
        return alpha, sigma, (before[0], before[1])

    def _weight(self, t: Tensor) -> Tensor | None:
        """Return the weight of the squared error of the output at times t, in their shape; None for 1."""
        config = self.config
        space = config.loss_space or config.prediction
        return training_weight(config.weighting, config.parameter, config.prediction, space, self.path, t)


def require_levels(config: ObjectiveConfig, frames_per_level: int) -> None:
    """Refuse levels of single frames that the network is not made for, or that the objective has not."""
    if config.frame_times != "shared" and not frames_per_level:
        raise UserError("frame_times", config.frame_times, "shared without model.frame_levels")
    if frames_per_level and config.learned_sigma:
        raise UserError("learned_sigma", True, "false with model.frame_levels")
    if frames_per_level and config.kind != "denoising":
        raise UserError("kind", config.kind, "denoising with model.frame_levels")
    if frames_per_level and config.weighting == "learned":
        raise UserError(
            "weighting", "learned", "another with model.frame_levels, whose samples have many levels"
        )


def _without(part: str, *inputs: Tensor) -> Tensor:
    raise ValueError(f"the objective's own {part} was not handed in by `use`")
