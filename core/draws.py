"""Keyed random draws: a function of (seed, purpose, sample id, step index, position), never of rank or
call order.

The generator is counter-based: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011). A first call per sample mixes (id, step_index, position) under a key made from (seed, purpose); its
128 bits become the key and the upper half of the counter of that sample's own stream, whose lower half counts
blocks of four words. So a draw does not depend on what else is in the batch, and a longer draw begins with
the shorter one.

The integers and the uniforms are bitwise equal on every device; normals agree to the rounding of log, sin
and cos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from core.permutations import keyed_hash
from core.philox import MASK, OnDevice, TensorDraws, box_muller, rounds

TOGETHER = ("posterior", "condition_dropout", "time", "noise")  # what a training step draws


@dataclass(frozen=True)
class Draws:
    """The draws of B samples at one optimizer step.

    seed: the job's seed, or one for each sample.  step_index: 0 <= step_index < 2^32.
    id: (B,) int64 sample id.  position: (B,) int64 place of the sample in the step, 0 <= position < 2^32.
    Results live on the device of `id`.
    """

    seed: int | tuple[int, ...]
    step_index: int
    id: Tensor
    position: Tensor
    _streams: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _ahead: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.step_index <= MASK:
            raise ValueError(f"step_index {self.step_index} does not fit the generator's 32-bit counter word")

    def to(self, device: torch.device) -> Draws:
        """Return the same draws, made on `device`."""
        return replace(self, id=self.id.to(device), position=self.position.to(device))

    def expect(self, purposes: Sequence[str]) -> None:
        """Start the streams of what will be drawn, in one go: each go is a hundred operations on a GPU."""
        if missing := [purpose for purpose in purposes if purpose not in self._streams]:
            self._start_streams(missing)

    def together(self, purposes: Sequence[str], shape: tuple[int, ...]) -> None:
        """Make the (B, *shape) normals of several purposes in one go, where that takes fewer operations.

        `normal` hands them out, once each.
        """
        if (device := self._device) is None or not device.prefers_one_go:
            return
        self.expect(purposes)
        streams = torch.cat([self._streams[purpose] for purpose in purposes], 1)
        made = device.normal(streams, math.prod(shape)).reshape(len(purposes), -1, *shape)
        self._ahead.update(zip(((purpose, shape) for purpose in purposes), made, strict=True))

    def stream(self, purpose: str) -> Tensor:
        """Return the (8, B) int64 stream of a purpose, as `OnDevice.start` makes it: not on a CPU."""
        if self._device is None:
            raise ValueError(f"{self.id.device} keeps streams in another form")
        found: Tensor = self._stream(purpose)
        return found

    def bits(self, purpose: str, count: int) -> Tensor:
        """Draw (B, count) int64, each a uniform 32-bit word."""
        if (device := self._device) is not None:
            stream = self._stream(purpose)
            return stream[4 : 4 + count].t() if count <= 4 else device.words(stream, count)
        return rearrange(torch.stack(self._words(purpose, count), -1), "b n w -> b (n w)")[:, :count]

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) float32 in the open interval (0, 1): midpoints of 2^23 equal cells, all exact."""
        cells = self.bits(purpose, math.prod(shape)) >> 9
        return ((cells.float() + 0.5) * 2.0**-23).reshape(-1, *shape)

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) float32 standard normals (Box and Muller 1958), up to 6.8 standard deviations."""
        count = math.prod(shape)
        if (device := self._device) is not None:
            if (ahead := self._ahead.pop((purpose, shape), None)) is not None:
                return ahead
            return device.normal(self._stream(purpose), count).reshape(-1, *shape)
        w0, w1, w2, w3 = self._words(purpose, count)
        pairs = [*box_muller(w0, w1), *box_muller(w2, w3)]
        return rearrange(torch.stack(pairs, -1), "b n w -> b (n w)")[:, :count].reshape(-1, *shape)

    def _words(self, purpose: str, count: int) -> list[Tensor]:
        """Draw four (B, ceil(count / 4)) tensors of 32-bit words."""
        *stream, first = self._stream(purpose)
        if count <= 4:
            return [_tensor(word)[:, None] for word in first]
        block = _arange(-(-count // 4))
        k0, k1, c2, c3 = (word[:, None] for word in stream)
        return [_tensor(word) for word in rounds((block & MASK, block >> 32, c2, c3), (k0, k1))]

    @property
    def _device(self) -> OnDevice | None:
        """Return what draws there; None on a CPU."""
        kind = self.id.device.type
        if on_gpu is not None and kind == on_gpu.device_type:
            return on_gpu
        return None if kind == "cpu" else _TENSORS

    def _stream(self, purpose: str) -> Any:
        """Return the stream of a purpose: its key and counter, and its first block."""
        if purpose not in self._streams:
            self._start_streams(list(dict.fromkeys([purpose, *TOGETHER])))
        return self._streams[purpose]

    def _start_streams(self, purposes: list[str]) -> None:
        """Find the keys and counters of several purposes, and the first block of each, in one go.

        The rounds are a hundred operations on tiny tensors, so a step pays for their number.
        """
        if self.id.shape != self.position.shape or self.id.ndim != 1:
            raise ValueError(
                f"id {tuple(self.id.shape)} and position {tuple(self.position.shape)} must be (B,)"
            )
        seeds = (self.seed,) if isinstance(self.seed, int) else self.seed
        keys = [[int.from_bytes(keyed_hash(8, s, purpose), "little") for s in seeds] for purpose in purposes]
        if (device := self._device) is not None:
            # Sent without waiting for queued work of the device, as `device=` would.
            sent = torch.tensor([[key - (key >> 63 << 64) for key in row] for row in keys])
            there = sent.to(self.id.device, non_blocking=True)
            made = device.start(there, self.id, self.position, self.step_index)
            self._streams.update(zip(purposes, made, strict=True))
            return
        k0, k1 = (
            np.array([[key >> shift & MASK for key in row] for row in keys], np.uint64) for shift in (0, 32)
        )
        number, position = (numbers.numpy().view(np.uint64) for numbers in (self.id, self.position))
        zero = number & 0
        mixed = rounds(
            (number & MASK, (number >> 32) & MASK, zero + self.step_index, position & MASK), (k0, k1)
        )
        first = rounds((zero, zero, *mixed[2:]), mixed[:2])
        for row, purpose in enumerate(purposes):
            self._streams[purpose] = (*(word[row] for word in mixed), [word[row] for word in first])


on_gpu: OnDevice | None = None  # set by `models.kernels.kinds.use_kernels`, for the whole process
_TENSORS = TensorDraws()


def _tensor(words: np.ndarray) -> Tensor:
    return torch.from_numpy(words.view(np.int64))


def _arange(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)[None]
