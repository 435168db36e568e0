"""Draw what a training sample needs beside its noise: dropped conditions, given frames, and times."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from core.batch import Condition
from core.diffusion import timesteps
from core.diffusion.conditioning import drop_condition
from core.diffusion.frames.training_levels import Given, choose_given, draw_times
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.consistency import neighbours
from core.diffusion.objectives.mean_flow import step_times
from core.diffusion.paths.path import Path
from core.draws import TOGETHER, Draws


class Choices(NamedTuple):
    """condition: without what was dropped.  given: frames, where the network may be given any.

    t: times (B,), or (B, T / unit) where frames have levels of their own.  end: (B,) an earlier time, of
    objectives that compare two times; else None.
    """

    condition: Condition
    given: Given | None
    t: Tensor
    end: Tensor | None


class Chooser:
    """Draws choices.

    gives_frames: whether the network takes given frames.  unit: latent frames of one level; 0 is all.
    density: of times, for the timesteps of kind=file.
    """

    def __init__(
        self, config: ObjectiveConfig, path: Path, density: Sequence[float], gives_frames: bool, unit: int
    ) -> None:
        self.config, self.path, self.density, self.unit = config, path, density, unit
        self.gives_frames = gives_frames or bool(unit)

    @functools.cached_property
    def purposes(self) -> tuple[str, ...]:
        """The purposes of all draws of a sample, those of its latents among them."""
        config, found = self.config, list(TOGETHER)
        found += ["label_dropout"] if config.class_dropout else []
        found += ["text_dropout"] if config.text_dropout else []
        if self.gives_frames:
            found.append("given_frames")
            found += ["given_subset", "given_pattern"] if config.given.draws_patterns else []
        if self.unit and config.frame_times != "shared":
            found.append("frame_prefix" if config.frame_times == "prefix" else "frame_times")
        found += ["end_time", "instant"] if config.kind == "mean_flow" else []
        return tuple(found)

    def choose(
        self, sizes: tuple[int, ...], condition: Condition, draws: Draws, *, has_stills: bool
    ) -> Choices:
        """Draw the choices of every sample.  sizes: (T, H, W) of the latents."""
        config, given = self.config, None
        condition = self._dropped(condition, draws)
        if self.gives_frames:
            how = sizes[0], config.given_frames, config.given, self.unit or 1
            given = choose_given(draws, *how, has_stills=has_stills)
        return Choices(condition, given, *self._times(sizes, draws, given))

    def _dropped(self, condition: Condition, draws: Draws) -> Condition:
        config = self.config
        condition = drop_condition(condition, draws.uniform("condition_dropout") < config.label_dropout)
        for share, part in ((config.class_dropout, "label"), (config.text_dropout, "text")):
            if share:
                dropped = draws.uniform(f"{part}_dropout") < share
                condition = drop_condition(condition, dropped, label=part == "label", text=part == "text")
        return condition

    def _times(
        self, sizes: tuple[int, ...], draws: Draws, given: Given | None
    ) -> tuple[Tensor, Tensor | None]:
        config, path, density = self.config, self.path, self.density
        positions = math.prod(sizes)
        if self.unit:
            mask = None if given is None else given.mask[:, :: self.unit]
            known = draws, sizes[0] // self.unit, positions, mask, density
            return draw_times(config.frame_times, config.timesteps, path, *known), None
        uniforms = timesteps.uniforms(config.timesteps, draws)
        t = timesteps.draw(config.timesteps, path, uniforms, positions, density)
        if config.kind == "mean_flow":
            other = timesteps.draw(config.timesteps, path, draws.uniform("end_time"), positions, density)
            return step_times(config.mean_flow, t, other, draws)
        if config.kind != "denoising":
            return neighbours(config.consistency, t, draws.step_index)
        return t, None
