"""Latents that are given for the samples of a form, and how the samples keep to them.

A network that has learned from given frames in the same places takes them as a condition. Everything else is
kept by replacement, in every evaluation the known part of the state is what it would be on the path, or by
projection of the estimated data (`core.diffusion.tasks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.diffusion.sampling import SamplerConfig, require_one_level
from core.diffusion.solvers.kinds import KINDS, require_for_frames
from core.diffusion.tasks.windows import Windows
from core.errors import UserError, renamed
from data.latent.normalising import Normaliser
from data.media.images import to_tensor
from models.autoencoder.interface import AnyAutoencoder
from models.denoisers.network import DenoiserConfig
from tools.runs.loaded_run import LoadedRun
from tools.sample.given.config import TaskConfig
from tools.sample.given.given_places import PLACES, learned, learned_stills, pattern_of
from tools.sample.given.input_files import is_picture, read_frames, read_mask


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
class _Found:
    """The content of a task's files, at the size of the samples.

    frames: (T, H, W, 3).  places: (T',) latent frames that are given of these.  cells: (H', W') latents that
    are made.  picture: (1, H, W, 3) that samples end with.
    """

    frames: NDArray[np.uint8]
    places: NDArray[np.bool_] | None = None
    cells: NDArray[np.bool_] | None = None
    picture: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Keeper:
    """Makes the known latents of forms of samples.

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
        """Return notes on given content that the network was not trained with, and what is done instead."""
        if (pattern := pattern_of(task)) is not None:
            where = PLACES[pattern]
            if not self.is_condition(task):
                how = f"they are kept by {task.keep} guidance"
                return [f"the run was not trained with frames given {where}: {how}"]
            unused = f"task.keep={task.keep} has no effect"
            found = [f"{unused}: the run was trained with frames given {where}"]
            return found * (task.keep != "replacement") + self._unlike_training(task)
        return [f"what the mask leaves black is kept by {task.keep} guidance"] if task.mask else []

    def _unlike_training(self, task: TaskConfig) -> list[str]:
        """Say where what samples end with moves and did not in training, or the other way round."""
        if not task.given_last or learned_stills(self.source) == is_picture(task.given_last, "given_last"):
            return []
        if learned_stills(self.source):
            return ["given_last moves, and last frames that the run was given stood still (data.stills=true)"]
        return ["given_last stands still, and last frames that the run was given moved (data.stills=false)"]

    def check(self, task: TaskConfig, sampler: SamplerConfig, pixels: tuple[int, int, int]) -> None:
        """Refuse files that do not fit samples of (T, H, W) pixels, and solvers that cannot keep to them."""
        self._read(task, pixels)
        self.windows(task, pixels)
        is_condition = self.is_condition(task)
        if is_condition and self.network.frames_per_level:
            require_for_frames(sampler.solver)
            require_one_level(sampler, "given frames")
        own_levels = KINDS[sampler.solver].is_adaptive or sampler.frame_lag > 0
        if task.keep == "projection" and not is_condition and own_levels:
            expected = "replacement with an adaptive solver or a frame_lag, whose samples or frames have"
            raise UserError("keep", task.keep, f"{expected} levels of their own")

    def known(self, task: TaskConfig, pixels: tuple[int, int, int]) -> Known | None:
        """Return what samples of (T, H, W) pixels know, None for nothing."""
        found = self._read(task, pixels)
        if found is None:
            return None
        latents, places = self._encode(found.frames), found.places
        if places is None:
            cells = found.cells
            kept = None if cells is None else torch.from_numpy(~cells).float()[None, None]
            kept = None if kept is None else kept.expand(1, *latents.shape[1:]).contiguous()
            return Known(latents, kept=None if kept is None else kept.to(self.device))
        if found.picture is not None:
            unit = self.network.frames_per_level or 1
            latents[:, -unit:] = self._encode(np.repeat(found.picture, pixels[0], 0))[:, -1:]
            places[-unit:] = True
        there = torch.from_numpy(places).float().to(self.device)
        latents = latents * there[None, :, None, None]
        if self.is_condition(task):
            return Known(latents, frames=there)
        return Known(latents, kept=there[None, :, None, None].expand(1, *latents.shape[1:]).contiguous())

    def _read(self, task: TaskConfig, pixels: tuple[int, int, int]) -> _Found | None:
        """Read the files of a task; None where it names none."""
        total, height, width = pixels
        latent_frames = self.autoencoder.latent_shape(pixels)[0]
        if task.image:
            frames = read_frames(task.image, "image", height, width)
            if len(frames) != total:
                raise UserError("image", task.image, f"{total} frames, as the samples; it has {len(frames)}")
            factor = self.autoencoder.spatial_compression
            cells = read_mask(task.mask, height, width, factor) if task.mask else None
            return _Found(frames, cells=cells)
        if not (task.given or task.given_last):
            return None
        if total == 1:
            field = "given" if task.given else "given_last"
            raise UserError(field, getattr(task, field), "'' with frames=1: clips alone are given frames")
        places = np.zeros(latent_frames, bool)
        clip, picture = np.zeros((0, height, width, 3), np.uint8), None
        if task.given:
            first = read_frames(task.given, "given", height, width)
            clip, places = self._given_first(task, first, pixels, places)
        if task.given_last:
            last = read_frames(task.given_last, "given_last", height, width)
            if len(last) == 1:
                picture = last
                self._require_room(task, places)
            else:
                rest = total - len(clip)
                places[-self._last_places(task, len(last), rest, pixels) :] = True
                clip = np.concatenate([clip, np.repeat(last[:1], rest - len(last), 0), last])
        self._require_whole_levels(task, places)
        return _Found(self._padded(clip, picture, total), places, picture=picture)

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

    def _require_room(self, task: TaskConfig, places: NDArray[np.bool_]) -> None:
        """Refuse a last picture where frames given first, or it alone, leave nothing to be made."""
        unit = self.network.frames_per_level or 1
        if places[-unit:].any() or places.sum() + unit >= len(places):
            expected = f"more frames: of {len(places)} latent frames the given ones leave none to be made"
            raise UserError("given_last", task.given_last, expected)

    def _last_places(self, task: TaskConfig, many: int, rest: int, pixels: tuple[int, int, int]) -> int:
        """Return how many latent frames the last frames fill.  rest: frames not given at the start."""
        total, height, width = pixels
        whole, _, _ = self.autoencoder.latent_shape(pixels)
        try:
            before, _, _ = self.autoencoder.latent_shape((total - many, height, width))
        except UserError as error:
            why = f"before them {error}"
            expected = f"a picture, or frames that fill whole latent frames at the end, not {many} ({why})"
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

    def _padded(
        self, clip: NDArray[np.uint8], picture: NDArray[np.uint8] | None, total: int
    ) -> NDArray[np.uint8]:
        """Return a clip of `total` frames: the last one repeated, or a picture."""
        still = clip[-1:] if len(clip) or picture is None else picture
        return np.concatenate([clip, np.repeat(still, total - len(clip), 0)])

    @torch.no_grad()
    def _encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """Return the posterior's mean of a clip (T, H, W, 3), normalised: (C, T', H', W')."""
        moments = self.autoencoder.encode(to_tensor(frames)[None].to(self.device))
        return self.normaliser.apply(moments[:, 0])[0]
