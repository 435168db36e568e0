"""The settings of an objective, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config.settings import setting
from core.diffusion.alignment.config import AlignmentConfig
from core.diffusion.frames.training_levels import (
    FrameTimes,
    GivenConfig,
)
from core.diffusion.objectives.consistency import ConsistencyConfig
from core.diffusion.objectives.kinds import KINDS, ObjectiveKind
from core.diffusion.objectives.mean_flow import DERIVATIVE_PASSES, MeanFlowConfig
from core.diffusion.paths.config import SIGMAS, ScheduleConfig, require_path
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Prediction
from core.diffusion.timesteps import TimestepConfig
from core.diffusion.weightings import SPACED, LossSpace, Weighting
from core.errors import UserError, below

GRADIENT_PASSES = 3  # an output and its gradient, in forward passes: backward is two


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    kind: ObjectiveKind = setting(
        "denoising",
        "denoising: what the data are at one time; for samples of one to four steps mean_flow, consistency, "
        "and distillation of the run that the job's `initial` names (docs/method.md)",
    )
    mean_flow: MeanFlowConfig = setting(MeanFlowConfig(), "settings of kind=mean_flow")
    consistency: ConsistencyConfig = setting(
        ConsistencyConfig(), "settings of kind=consistency and distillation"
    )
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
    alignment: AlignmentConfig = setting(
        AlignmentConfig(), "of a block with a picture encoder's features, with data.features"
    )

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
            self._require_plain()
        if self.loss_space and self.weighting not in SPACED:
            raise UserError("loss_space", self.loss_space, f"'' with weighting={self.weighting}")

    def _require_plain(self) -> None:
        """Refuse what objectives of few steps have no form for."""
        plain = {"weighting": "uniform", "loss_space": "", "learned_sigma": False, "frame_times": "shared"}
        for field, usual in plain.items():
            if (value := getattr(self, field)) != usual:
                shown = {"": "''", False: "false"}.get(usual, usual)
                raise UserError(field, value, f"{shown} with kind={self.kind}")

    @property
    def passes(self) -> int:
        """The arithmetic of a step's loss and gradient, in forward passes of the network over its samples.

        Output and gradient are 3. Parameters that belong to the objective are not counted.
        """
        is_average = self.kind == "mean_flow"
        beside = DERIVATIVE_PASSES[self.mean_flow.derivative] if is_average else KINDS[self.kind].beside
        return GRADIENT_PASSES + beside

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
