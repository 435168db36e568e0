"""What samples of a form know before they are made: latents of what is given, and how these are kept.

A network that has learned from given frames in the same places takes them as a condition. Everything else is
kept by replacement, in every evaluation the known part of the state is what it would be on the path, or by
projection of the estimated data (`core.diffusion.tasks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.config.yaml_files import read_recorded
from core.diffusion.frames.lagging import require_frame_steps
from core.diffusion.frames.training_levels import GivenConfig
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.kinds import KINDS
from core.diffusion.tasks.windows import Windows
from core.errors import UserError, below, renamed
from core.run.folder import CONFIG
from data.latent.normalising import Normaliser
from data.media.images import to_tensor
from models.autoencoder.interface import AnyAutoencoder
from models.denoisers.network import DenoiserConfig
from tools.runs.loaded_run import LoadedRun
from tools.sample.given.config import TaskConfig
from tools.sample.given.input_files import read_frames, read_mask

Pattern = Literal["first", "last", "ends", "every"]
PLACES: dict[Pattern, str] = {
    "first": "at the start",
    "last": "at the end",
    "ends": "at both ends",
    "every": "at every n-th place",
}


@dataclass(frozen=True)
class Known:
    """Latents that are known, normalised.

    latents: (C, T, H, W).  frames: (T,), 1 for frames that the network takes as given.
    kept: (1, T, H, W), 1 for what is kept by replacement or projection.
    """

    latents: Tensor
    frames: Tensor | None = None
    kept: Tensor | None = None


@dataclass(frozen=True)
class Keeper:
    """Makes what forms of samples know.

    source: the folder of the run or export.  device: of the autoencoder.
    """

    network: DenoiserConfig
    autoencoder: AnyAutoencoder
    normaliser: Normaliser
    source: Path
    device: torch.device

    @classmethod
    def of(cls, trained: LoadedRun, source: Path) -> Self:
        """Return the keeper of a run or export that is open."""
        device = next(trained.model.parameters()).device
        return cls(trained.network, trained.autoencoder, trained.space.normaliser, source, device)

    def pixels(self, frames: int, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return (T, H, W) of a sample's pixels.  shape: (C, T, H, W) of its latents."""
        factor = self.autoencoder.spatial_compression
        return frames, shape[2] * factor, shape[3] * factor

    def windows(self, task: TaskConfig, pixels: tuple[int, int, int]) -> Windows | None:
        """Return the windows in latent frames, None for none.  pixels: (T, H, W) of a sample."""
        if not task.window:
            return None
        _, height, width = pixels
        with renamed({"frames": "window"}):
            length, _, _ = self.autoencoder.latent_shape((task.window, height, width))
        overlap = round(length * task.overlap / task.window) if task.overlap else length // 2
        return Windows(length, max(1, overlap), self.network.frames_per_level or 1)

    def is_condition(self, task: TaskConfig) -> bool:
        """Return whether the network takes the given frames as a condition, as it has learned to."""
        return (pattern := pattern_of(task)) is not None and learned(self.source, self.network, pattern, task)

    def notes(self, task: TaskConfig) -> list[str]:
        """Say what the network was not trained for, and what is done instead."""
        if (pattern := pattern_of(task)) is not None:
            where = PLACES[pattern]
            if not self.is_condition(task):
                how = f"they are kept by {task.keep} guidance"
                return [f"the run was not trained with frames given {where}: {how}"]
            unused = f"task.keep={task.keep} has no effect"
            return [f"{unused}: the run was trained with frames given {where}"] * (task.keep != "replacement")
        return [f"what the mask leaves black is kept by {task.keep} guidance"] if task.mask else []

    def check(self, task: TaskConfig, sampler: SamplerConfig, pixels: tuple[int, int, int]) -> None:
        """Refuse files that do not fit samples of (T, H, W) pixels, and solvers that cannot keep to them."""
        self._read(task, pixels)
        self.windows(task, pixels)
        is_condition = self.is_condition(task)
        if is_condition and self.network.frames_per_level:
            require_frame_steps(sampler.solver, sampler.eta)
        own_levels = KINDS[sampler.solver].is_adaptive or sampler.frame_lag > 0
        if task.keep == "projection" and not is_condition and own_levels:
            expected = "replacement with an adaptive solver or a frame_lag, whose samples or frames have"
            raise UserError("keep", task.keep, f"{expected} levels of their own")

    def known(self, task: TaskConfig, pixels: tuple[int, int, int]) -> Known | None:
        """Return what samples of (T, H, W) pixels know, None for nothing."""
        found = self._read(task, pixels)
        if found is None:
            return None
        frames, places, cells = found
        latents = self._encode(frames)
        if places is None:
            kept = None if cells is None else torch.from_numpy(~cells).float()[None, None]
            kept = None if kept is None else kept.expand(1, *latents.shape[1:]).contiguous()
            return Known(latents, kept=None if kept is None else kept.to(self.device))
        there = torch.from_numpy(places).float().to(self.device)
        latents = latents * there[None, :, None, None]
        if self.is_condition(task):
            return Known(latents, frames=there)
        return Known(latents, kept=there[None, :, None, None].expand(1, *latents.shape[1:]).contiguous())

    def _read(
        self, task: TaskConfig, pixels: tuple[int, int, int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None, NDArray[np.bool_] | None] | None:
        """Read frames (T, H, W, 3); with these the latent frames (T') that are given, or the latents (H', W')
        that are made.
        """
        total, height, width = pixels
        latent_frames = self.autoencoder.latent_shape(pixels)[0]
        if task.image:
            frames = read_frames(task.image, "image", height, width)
            if len(frames) != total:
                raise UserError("image", task.image, f"{total} frames, as the samples; it has {len(frames)}")
            factor = self.autoencoder.spatial_compression
            return frames, None, read_mask(task.mask, height, width, factor) if task.mask else None
        if not (task.given or task.given_last):
            return None
        if total == 1:
            raise UserError("frames", 1, "more than 1 with given frames, which a clip goes on from")
        places = np.zeros(latent_frames, bool)
        clip: NDArray[np.uint8] | None = None
        if task.given:
            first = read_frames(task.given, "given", height, width)
            clip, places = self._given_first(task, first, pixels, places)
        if task.given_last:
            last = read_frames(task.given_last, "given_last", height, width)
            rest = total if clip is None else total - len(clip)
            places[-self._last_places(task, len(last), rest, pixels) :] = True
            still = np.repeat(last[:1], rest - len(last), 0)  # of a picture all of the rest
            clip = np.concatenate([*(() if clip is None else (clip,)), still, last])
        assert clip is not None
        self._require_whole_levels(task, places)
        return self._padded(clip, total), places, None

    def _given_first(
        self,
        task: TaskConfig,
        frames: NDArray[np.uint8],
        pixels: tuple[int, int, int],
        places: NDArray[np.bool_],
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        total, height, width = pixels
        if task.given_every:
            if len(frames) != total:
                raise UserError("given", task.given, f"{total} frames with given_every; it has {len(frames)}")
            places[:: task.given_every] = True
            return frames, places
        if len(frames) >= total:
            raise UserError("given", task.given, f"fewer frames than the samples' {total}, not {len(frames)}")
        try:
            many, _, _ = self.autoencoder.latent_shape((len(frames), height, width))
        except UserError as error:
            expected = f"frames that fill whole latent frames, not {len(frames)} ({error})"
            raise UserError("given", task.given, expected) from None
        places[:many] = True
        if places.all():
            raise UserError("given", task.given, f"fewer frames: its {len(frames)} leave nothing to be made")
        return frames, places

    def _last_places(self, task: TaskConfig, many: int, rest: int, pixels: tuple[int, int, int]) -> int:
        """Return how many latent frames the last pictures fill.  rest: frames not given at the start.

        A picture stands for a level's worth of frames, in which nothing moves.
        """
        if many == 1:
            return self.network.frames_per_level or 1
        total, height, width = pixels
        whole, _, _ = self.autoencoder.latent_shape(pixels)
        try:
            before, _, _ = self.autoencoder.latent_shape((total - many, height, width))
        except UserError as error:
            expected = f"a picture, or frames that fill whole latent frames at the end, not {many} ({error})"
            raise UserError("given_last", task.given_last, expected) from None
        if many >= rest:
            expected = f"fewer frames than the {rest} that are left, not {many}"
            raise UserError("given_last", task.given_last, expected)
        return whole - before

    def _require_whole_levels(self, task: TaskConfig, places: NDArray[np.bool_]) -> None:
        unit = self.network.frames_per_level
        if unit > 1 and (places.reshape(-1, unit).any(1) != places.reshape(-1, unit).all(1)).any():
            expected = f"multiples of {unit} latent frames, which share a level of noise in this network"
            raise UserError("given", task.given, expected)

    def _padded(self, clip: NDArray[np.uint8], total: int) -> NDArray[np.uint8]:
        """Return a clip of `total` frames: the last one repeated, which no given latent sees."""
        return np.concatenate([clip, np.repeat(clip[-1:], total - len(clip), 0)])

    @torch.no_grad()
    def _encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """Return the posterior's mean of a clip (T, H, W, 3), normalised: (C, T', H', W')."""
        moments = self.autoencoder.encode(to_tensor(frames)[None].to(self.device))
        return self.normaliser.apply(moments[:, 0])[0]


def pattern_of(task: TaskConfig) -> Pattern | None:
    """Return where frames are given, None for none."""
    if task.given_every:
        return "every"
    if task.given:
        return "ends" if task.given_last else "first"
    return "last" if task.given_last else None


def learned(source: Path, network: DenoiserConfig, pattern: Pattern, task: TaskConfig) -> bool:
    """Return whether a run was trained with frames given in such places, as its config says."""
    if not (network.frame_condition or network.frames_per_level):
        return False
    recorded: Any = read_recorded(source / CONFIG).get("objective") or {}
    if network.frames_per_level and recorded.get("frame_times") == "independent":
        return True
    if network.frames_per_level and recorded.get("frame_times") == "prefix":
        return pattern == "first"
    if recorded.get("given_frames", 0.5) == 0:
        return False
    with below(f"{source / CONFIG}: objective.given"):
        given = replace(GivenConfig(), **(recorded.get("given") or {}))
    if given.random:
        return True
    return bool(getattr(given, pattern)) and (pattern != "every" or given.n == task.given_every)
