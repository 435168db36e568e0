"""The training objective: path x prediction x weighting x distribution of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.batch import Condition
from core.diffusion import predictions, timesteps
from core.diffusion.alignment.aligned import PROJECTOR, Alignment, not_aligned
from core.diffusion.conditioning import drop_condition
from core.diffusion.frames.training_levels import (
    draw_times,
    give_frames,
    wide,
)
from core.diffusion.objectives.config import ObjectiveConfig, require_levels
from core.diffusion.objectives.consistency import Teacher, consistency_loss, neighbours
from core.diffusion.objectives.denoising import denoising_loss
from core.diffusion.objectives.mean_flow import mean_flow_loss, step_times
from core.diffusion.objectives.noised import Model, NoisyBatch
from core.diffusion.objectives.own import LogVariance, Own, OwnParameters
from core.diffusion.objectives.shown_tokens import Showing
from core.diffusion.paths.config import PathRecord, path_record
from core.diffusion.paths.kinds import make_path
from core.diffusion.predictions import Before, level_before
from core.diffusion.time_density import read_density
from core.diffusion.weightings import training_weight
from core.draws import Draws
from core.losses import Losses


class Objective:
    """The loss of a denoiser on clean data; every random number in it is keyed by the sample.

    frame_condition: whether the model takes given frames; then every sample brings a mask, perhaps of zeros.
    frames_per_level: latent frames of which the network is told one level of noise; 0 is all of them.
    path: as the run records it; None is that of the config, whose file of rates is then read.
    density: of times, likewise.
    alignment: of a block with features of the pictures; None for none.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        *,
        frame_condition: bool = False,
        frames_per_level: int = 0,
        path: PathRecord | None = None,
        density: Sequence[float] | None = None,
        alignment: Alignment | None = None,
    ) -> None:
        self.config, self.frame_condition, self.unit = config, frame_condition, frames_per_level
        self.alignment = alignment
        self._own: Own = _without
        self._teacher: Teacher | None = None
        file = config.timesteps.density
        self._density = density if density is not None else read_density(file) if file else ()
        require_levels(config, frames_per_level)
        self.path = make_path(path or path_record(config.path, config.schedule))

    def own_parameters(self) -> OwnParameters | None:
        """Make the objective's own parameters, from torch's generator; None where it has none."""
        parts: dict[str, nn.Module] = {}
        if self.config.weighting == "learned":
            parts["log_variance"] = LogVariance()
        if self.alignment is not None:
            parts[PROJECTOR] = self.alignment.projector()
        return OwnParameters(parts) if parts else None

    @property
    def own_steps(self) -> int | None:
        """The number of steps in which the loss calls its own parameters; None where that never ends."""
        return self.alignment.end if self.alignment and self.config.weighting != "learned" else None

    def aligns(self, step_index: int) -> bool:
        """Return whether the loss of a step takes features."""
        return self.alignment is not None and (self.own_steps is None or step_index < self.own_steps)

    def use(self, own: Own) -> None:
        """Take the objective's own parameters, called by the name of a part."""
        self._own = own

    def learn_from(self, teacher: Model) -> None:
        """Take the trained network that kind=distillation distils, of the same prediction."""
        self._teacher = Teacher(teacher, self.config.prediction)

    def loss(
        self,
        model: Model,
        x0: Tensor,
        condition: Condition,
        draws: Draws,
        features: Tensor | None = None,
    ) -> Losses:
        """Return the mean weighted squared error per sample, and the alignment where features are given.

        x0: (B, C, T, H, W) float32.  model(x_t, time_input, condition) -> (B, C or 2C, T, H, W); the upper
        half is the variance, and goes unused where that is not trained.  features: (B, F, h, w, E) of x0.
        """
        return self.loss_of(model, self.noised(x0, condition, draws), features, draws.step_index)

    def noised(
        self, x0: Tensor, condition: Condition, draws: Draws, still: Tensor | None = None
    ) -> NoisyBatch:
        """Compute the part of `loss` before the network.

        still: (B, C, 1, H, W), which a last frame that is given alone is taken from; None takes x0's own.
        """
        config, path = self.config, self.path
        condition = drop_condition(condition, draws.uniform("condition_dropout") < config.label_dropout)
        for share, part in ((config.class_dropout, "label"), (config.text_dropout, "text")):
            if share:
                dropped = draws.uniform(f"{part}_dropout") < share
                condition = drop_condition(condition, dropped, label=part == "label", text=part == "text")
        if self.frame_condition or self.unit:
            given, unit = config.given, self.unit or 1
            condition, x0 = give_frames(condition, x0, draws, config.given_frames, given, unit, still)
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

    def loss_of(
        self, model: Model, noised: NoisyBatch, features: Tensor | None = None, step_index: int = 0
    ) -> Losses:
        """Compute the part of `loss` from the network on.

        step_index: by which the alignment is weighed. With features the model is also asked for a block's
        tokens: those of the last call, at the noised input, the only one of which the loss has a gradient.
        """
        aligned = self.alignment
        if aligned is None:
            return self.prediction_loss(model, noised)
        if not self.aligns(step_index):
            return not_aligned(self.prediction_loss(model, noised))
        if features is None:
            raise ValueError("the batch has no features, with which a block is to be aligned")
        showing = Showing(model, aligned.block)
        losses = self.prediction_loss(showing, noised)
        return aligned.added(losses, showing.tokens, features, self._own, step_index)

    def prediction_loss(self, model: Model, noised: NoisyBatch) -> Losses:
        """Return the loss without alignment."""
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


def _without(part: str, *inputs: Tensor) -> Tensor:
    raise ValueError(f"the objective's own {part} was not handed in by `use`")
