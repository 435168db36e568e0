"""The training objective: path x prediction x weighting x distribution of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.batch import Condition
from core.diffusion import predictions
from core.diffusion.alignment.aligned import PROJECTOR, Alignment, not_aligned
from core.diffusion.frames.training_levels import give, wide
from core.diffusion.objectives.config import ObjectiveConfig, require_levels
from core.diffusion.objectives.consistency import Teacher, consistency_loss
from core.diffusion.objectives.denoising import denoising_loss
from core.diffusion.objectives.drawn import Chooser
from core.diffusion.objectives.mean_flow import mean_flow_loss
from core.diffusion.objectives.mixer import Ingredients, Mixer
from core.diffusion.objectives.noised import Model, NoisyBatch
from core.diffusion.objectives.own import LogVariance, Own, OwnParameters
from core.diffusion.objectives.shown_tokens import Showing
from core.diffusion.paths.config import PathRecord, path_record
from core.diffusion.paths.kinds import make_path
from core.diffusion.predictions import level_before
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
        if density is None:
            density = read_density(file) if file else ()
        require_levels(config, frames_per_level)
        self.path = make_path(path or path_record(config.path, config.schedule))
        self._chooser = Chooser(config, self.path, density, frame_condition, frames_per_level)

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
        chosen = self._chooser.choose(x0.shape[2:], condition, draws, has_stills=still is not None)
        condition = chosen.condition
        if chosen.given is not None:
            condition, x0 = give(condition, x0, chosen.given, self.unit or 1, still)
        noise = draws.normal("noise", tuple(x0.shape[1:]))
        noised = self.noised_at(x0, condition, chosen.t, noise)
        return noised if chosen.end is None else replace(noised, noise=noise, end=chosen.end)

    def noised_at(self, x0: Tensor, condition: Condition, t: Tensor, noise: Tensor) -> NoisyBatch:
        """Return the batch at times t: (B,), or (B, T / unit) where frames have levels of their own."""
        told, t = self.path.time_input(t), self._of_frames(t)
        alpha, sigma = map(wide, self.path.levels(t))
        before = None if (lower := self._before(t)) is None else (wide(lower[0]), wide(lower[1]))
        target = predictions.target(self.config.prediction, x0, noise, alpha, sigma, before)
        if t.ndim == 2:
            target = torch.where(wide(t) > 0, target, 0.0)
        x_t = alpha * x0 + sigma * noise
        return NoisyBatch(x0, x_t, target, t, told, alpha, sigma, self._weight(t), condition)

    def mixed(
        self,
        mixer: Mixer,
        moments: Tensor,
        normal: tuple[Tensor, Tensor],
        condition: Condition,
        draws: Draws,
        still: Tensor | None = None,
    ) -> NoisyBatch:
        """Compute what `noised` does of the latents of moments (B, M, C, T, H, W), in one pass over these.

        normal: mean and std of latents, (C, 1) or (C, T) float32.
        """
        draws.expect(self.purposes)
        chosen = self._chooser.choose(moments.shape[3:], condition, draws, has_stills=still is not None)
        condition, given = chosen.condition, chosen.given
        told, t = self.path.time_input(chosen.t), self._of_frames(chosen.t)
        alpha, sigma = self.path.levels(t)
        mixed = mixer.mix(
            Ingredients(
                moments,
                *normal,
                draws.stream("posterior") if moments.shape[1] > 1 else None,
                draws.stream("noise"),
                self._mixing_levels(t, alpha, sigma),
                None if given is None else given.mask,
                None if given is None or given.is_picture is None else still,
                None if given is None else given.is_picture,
                self.unit or 1,
            ),
            keeps_all=not self._is_plain,
        )
        if given is not None:
            condition = replace(condition, frame_mask=given.mask, frame_latents=mixed.frame_latents)
        known = t, told, wide(alpha), wide(sigma), self._weight(t), condition
        return NoisyBatch(mixed.x0, mixed.x_t, mixed.target, *known, noise=mixed.noise, end=chosen.end)

    @property
    def purposes(self) -> tuple[str, ...]:
        """The purposes of all draws of a sample, those of its latents among them."""
        return self._chooser.purposes

    @property
    def _is_plain(self) -> bool:
        """Return whether the loss takes x_t to the network as it is, and neither data nor noise."""
        return (
            self.config.kind == "denoising" and not self.config.learned_sigma and not self.path.scales_input
        )

    def _of_frames(self, t: Tensor) -> Tensor:
        """Return times of groups of frames (B, T / unit) as those of frames, and others as they are."""
        return t.repeat_interleave(self.unit, 1) if t.ndim == 2 else t

    def _mixing_levels(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return alpha, sigma and the target's factors of data and noise, (4, B, 1 or T)."""
        parts = predictions.parts(self.config.prediction, alpha, sigma, self._before(t))
        factors = [part if isinstance(part, Tensor) else torch.full_like(alpha, part) for part in parts]
        if t.ndim == 2:
            factors = [torch.where(t > 0, factor, 0.0) for factor in factors]
        return torch.stack([alpha, sigma, *factors]).reshape(4, len(t), -1)

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

    def _before(self, t: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the levels of the step before, in the shape of t, where a target needs them."""
        if self.config.prediction != "posterior_mean":
            return None
        alpha, sigma = level_before(self.path, t)
        return alpha.float(), sigma.float()

    def _weight(self, t: Tensor) -> Tensor | None:
        """Return the weight of the squared error of the output at times t, in their shape; None for 1.

        Frames at time 0 count nothing.
        """
        config = self.config
        space = config.loss_space or config.prediction
        known = config.weighting, config.parameter, config.prediction, space, self.path, t
        weight = training_weight(*known)
        return weight if weight is None or t.ndim == 1 else torch.where(t > 0, weight, 0.0)


def _without(part: str, *inputs: Tensor) -> Tensor:
    raise ValueError(f"the objective's own {part} was not handed in by `use`")
