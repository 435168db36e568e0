"""Decode latents to pixels while the next batch is generated: on a GPU on a stream of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from data.latent.normalising import Normaliser
from models.autoencoder.interface import AnyAutoencoder
from tools.runs.loaded_run import LoadedRun
from tools.sample.generating import decode
from tools.sample.parts import Decoded


@dataclass(frozen=True)
class Made:
    """Normalised latents (B, C, T, H, W) of clips of so many frames.

    ready: when the device has finished them; None where it has.
    """

    latents: Tensor
    frames: int
    ready: torch.cuda.Event | None = None


@dataclass(frozen=True)
class Decoder:
    """Decodes on one thread the latents that another generates.

    stream: of a GPU, on which that is done: nothing waits for the whole device, and the network's kernels are
    waited for once, by the stream itself.
    """

    autoencoder: AnyAutoencoder
    normaliser: Normaliser
    stream: torch.cuda.Stream | None = None

    @classmethod
    def of(cls, trained: LoadedRun) -> Self:
        """Return the decoder of a run that is open."""
        device = next(trained.model.parameters()).device
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        return cls(trained.autoencoder, trained.space.normaliser, stream)

    def hand_over(self, latents: Tensor, frames: int) -> Made:
        """Note when latents are finished, on the stream that makes them, without waiting for it."""
        if self.stream is None:
            return Made(latents, frames)
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(latents.device))
        return Made(latents, frames, ready)

    def decoded(self, made: Made, size: int, *, with_latents: bool = False) -> Iterator[Decoded]:
        """Yield the pixels of so many samples at a time, with_latents beside what the decoder was given."""
        for some in made.latents.split(size):
            with self._beside(made):
                pixels = decode(self.autoencoder, self.normaliser, some, made.frames)
                latents = self.normaliser.undo(some).float().cpu() if with_latents else None
            yield Decoded(pixels, latents)

    @contextlib.contextmanager
    def _beside(self, made: Made) -> Iterator[None]:
        """Have this thread's work done on the stream, once the latents are finished."""
        if self.stream is None or made.ready is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(made.ready)
            made.latents.record_stream(self.stream)  # so that its memory is not given to others before
            yield
