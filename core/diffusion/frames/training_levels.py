"""Noise levels of single frames in training, and which frames of a clip are given.

A level belongs to a group of latent frames that share a token (`unit` of them). Frames at t = 0 are given:
they are copied, count in no loss, and the network is told `time_input(0)` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from core.batch import Condition
from core.config.settings import setting
from core.diffusion import timesteps
from core.diffusion.paths.path import Path
from core.diffusion.timesteps import TimestepConfig
from core.draws import Draws
from core.errors import UserError

LAST, ENDS = 1, 2  # places of these patterns in `GivenConfig.weights`
FrameTimes = Literal["shared", "independent", "monotone", "prefix"]


@dataclass(frozen=True, kw_only=True)
class GivenConfig:
    """How often each pattern is taken for clips with given frames, relative to the others.

    A pattern that would leave no frame to learn gives none.
    """

    first: float = setting(1.0, "the first 1 to T - 1 latent frames, each number equally likely", low=0)
    last: float = setting(0.0, "the last 1 to T - 1 latent frames, each number equally likely", low=0)
    ends: float = setting(0.0, "the first and the last latent frame", low=0)
    every: float = setting(0.0, "every n-th latent frame, from the first one on", low=0)
    n: int = setting(4, "interval of `every`", low=2)
    random: float = setting(
        0.0, "each latent frame independently, with a probability drawn for the clip", low=0
    )

    def __post_init__(self) -> None:
        if not any(self.weights):
            raise UserError("first", self.first, "one pattern at least with a number above 0")

    @property
    def weights(self) -> tuple[float, ...]:
        return self.first, self.last, self.ends, self.every, self.random

    @property
    def draws_patterns(self) -> bool:
        """Whether a pattern is drawn for every clip: `first` alone needs no draw."""
        return any(self.weights[1:])


class Given(NamedTuple):
    """Frames that are given: mask (B, T) float32, 1 where.

    is_picture: (B,) of clips whose last unit is what a picture is encoded to; None where none can be.
    """

    mask: Tensor
    is_picture: Tensor | None


def choose_given(
    draws: Draws, frames: int, share: float, config: GivenConfig, unit: int = 1, *, has_stills: bool = False
) -> Given:
    """Give `share` of the clips frames by a pattern; the rest get none.

    frames: latent frames T of a clip.  unit: those that are given together.  With `first` alone the draws are
    those of one pattern.  has_stills: whether a last unit that is given without the one before, by the
    patterns `last` and `ends`, is to be a picture. Draws are those without.
    """
    groups = frames // unit
    place = torch.arange(groups, device=draws.id.device)
    given, count = draws.uniform("given_frames", (2,)).unbind(1)
    many = (1 + torch.floor(count * (groups - 1))).clamp(max=groups - 1)[:, None]
    mask = place < many
    kind = None
    if config.draws_patterns:
        kind, mask = _by_pattern(draws, config, place, mask, count, many)
    mask = mask & (given < share)[:, None]
    is_picture = None
    if has_stills and kind is not None and groups > 1:
        is_picture = mask[:, -1] & ~mask[:, -2] & ((kind == LAST) | (kind == ENDS))
    return Given(repeat(mask.float(), "b g -> b (g unit)", unit=unit), is_picture)


def _by_pattern(
    draws: Draws, config: GivenConfig, place: Tensor, first: Tensor, count: Tensor, many: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the pattern (B,) of every clip, and which groups (B, groups) it gives.

    first: those of the pattern of that name.  count: in (0, 1), and many: of groups, (B,) and (B, 1).
    """
    groups = len(place)
    chance = draws.uniform("given_subset", (groups,))
    is_end = (place == 0) | (place == groups - 1)
    every = place % config.n == 0
    patterns = torch.stack(
        [
            first,
            groups - 1 - place < many,
            is_end.expand_as(first),
            every.expand_as(first),
            chance < count[:, None],
        ]
    )
    bounds = torch.tensor(config.weights, dtype=torch.float64).cumsum(0).to(place.device, non_blocking=True)
    drawn = draws.uniform("given_pattern").double() * bounds[-1]
    kind = torch.searchsorted(bounds, drawn, right=True)
    mask = patterns[kind, torch.arange(len(kind), device=place.device)]
    return kind, mask & ~mask.all(1, keepdim=True)


def give(
    condition: Condition, x0: Tensor, given: Given, unit: int, still: Tensor | None
) -> tuple[Condition, Tensor]:
    """Return the condition with the frames that are given, and x0 (B, C, T, H, W) as it is then.

    still: (B, C, 1, H, W), what a picture is encoded to.
    """
    if still is not None and given.is_picture is not None:
        is_picture = rearrange(given.is_picture, "b -> b 1 1 1 1")
        ending = torch.where(is_picture, still.to(x0.dtype), x0[:, :, -unit:])
        x0 = torch.cat([x0[:, :, :-unit], ending], 2)
    latents = x0 * rearrange(given.mask, "b t -> b 1 t 1 1")
    return replace(condition, frame_mask=given.mask, frame_latents=latents), x0


def draw_times(
    kind: FrameTimes,
    config: TimestepConfig,
    path: Path,
    draws: Draws,
    groups: int,
    positions: int,
    given: Tensor | None,
    density: Sequence[float] = (),
) -> Tensor:
    """Return times (B, groups); 0 where `given` (B, groups), if any, is not 0.

    shared: one for all, that of a network of one level.  independent: each drawn by itself, keyed by sample
    and group (diffusion forcing, 2407.01392).  monotone: the same, rising from the first group on.
    prefix: 0 for the first 0 to groups - 1, and one for the others.
    """
    if kind in ("independent", "monotone"):
        uniforms = draws.uniform("frame_times", (groups,))
        t = timesteps.draw(config, path, uniforms, positions, density)
        t = t.sort(1).values if kind == "monotone" else t
    else:
        t = timesteps.draw(config, path, timesteps.uniforms(config, draws), positions, density)
        t = repeat(t, "b -> b g", g=groups)
    if kind == "prefix":
        many = torch.floor(draws.uniform("frame_prefix") * groups)[:, None]
        given = (torch.arange(groups, device=t.device) < many).to(t.dtype)
    return t if given is None else torch.where(given > 0, 0.0, t)


def wide(value: Tensor) -> Tensor:
    """Return values of samples (B,), or of their frames (B, T), in the shape of latents."""
    return rearrange(value, "b -> b 1 1 1 1") if value.ndim == 1 else rearrange(value, "b t -> b 1 t 1 1")


def mean_over_levels(error: Tensor, weight: Tensor | None, t: Tensor) -> Tensor:
    """Return the (B,) weighted mean of (B, C, T, H, W) over the frames that are not at time 0."""
    frames = reduce(error, "b c t h w -> b t", "mean")
    counted = (t > 0).to(frames.dtype)
    return (frames * (counted if weight is None else weight)).sum(1) / counted.sum(1)


def mean_over_unknown(error: Tensor, frame_mask: Tensor | None) -> Tensor:
    """Return the (B,) mean of (B, C, T, H, W) over everything but the frames that were given."""
    if frame_mask is None:
        return error.mean((1, 2, 3, 4))
    unknown = 1 - frame_mask
    return (reduce(error, "b c t h w -> b t", "mean") * unknown).sum(1) / unknown.sum(1)
