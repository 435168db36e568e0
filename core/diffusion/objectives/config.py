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
        "training objective: denoising predicts from one noise level; mean_flow, consistency, and "
        "distillation of the run in `initial` are for sampling in one to four steps (docs/method.md)",
    )
    mean_flow: MeanFlowConfig = setting(MeanFlowConfig(), "settings of kind=mean_flow")
    consistency: ConsistencyConfig = setting(
        ConsistencyConfig(), "settings of kind=consistency and distillation"
    )
    path: PathName = setting("rectified_flow", "probability path from data to noise")
    schedule: ScheduleConfig = setting(ScheduleConfig(), "parameters of the path")
    prediction: Prediction = setting(
        "flow", "what the network predicts; docs/method.md has the formulas, and what goes with which path"
    )
    timesteps: TimestepConfig = setting(TimestepConfig(), "distribution of training times")
    weighting: Weighting = setting(
        "uniform",
        "weight of the squared error at each time, the same for all predictions (docs/method.md); "
        "learned: the inverse of the error estimated at that noise level",
    )
    loss_space: LossSpace = setting(
        "",
        "weighting=uniform, learned: the prediction in which the squared error is taken; '' takes the "
        "network's own",
    )
    min_snr_gamma: float = setting(
        5.0, "min_snr: signal-to-noise ratio above which the weight of x0 errors is constant"
    )
    p2_gamma: float = setting(1.0, "p2: exponent of 1 / (1 + signal-to-noise ratio)", low=0)
    edm_deviation: float = setting(1.0, "edm: standard deviation of the latents", low=1e-3)
    sigmoid_bias: float = setting(
        0.0,
        "sigmoid: log signal-to-noise ratio at which the weight of noise errors is half that of pure noise",
    )
    label_dropout: float = setting(0.1, "share of samples trained without label and text", low=0, high=1)
    class_dropout: float = setting(
        0.0,
        "share of the remaining samples trained without label but with text; allows separate guidance "
        "scales for both",
        high=1,
        low=0,
    )
    text_dropout: float = setting(
        0.0, "share of the remaining samples trained without text but with label", low=0, high=1
    )
    given_frames: float = setting(
        0.5,
        "share of clips trained with given frames, where the model takes given frames or frame levels",
        low=0,
        high=1,
    )
    given: GivenConfig = setting(GivenConfig(), "how often each pattern of given frames is trained")
    frame_times: FrameTimes = setting(
        "shared",
        "noise levels of the frames of a clip, with model.frame_levels: independent, monotone (rising), "
        "or prefix (a clean beginning of random length)",
    )
    learned_sigma: bool = setting(
        False, "also train the variance of the reverse step, which the model predicts"
    )
    bound_weight: float = setting(0.001, "learned_sigma: weight of the full variational bound", low=0)
    alignment: AlignmentConfig = setting(
        AlignmentConfig(), "alignment of a block with the features of a picture encoder; needs data.features"
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
