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
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from core.permutations import keyed_hash

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1: the key's increments per round
_ROUNDS = 10

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

    def __post_init__(self) -> None:
        if not 0 <= self.step_index <= _MASK:
            raise ValueError(f"step_index {self.step_index} does not fit the generator's 32-bit counter word")

    def to(self, device: torch.device) -> Draws:
        """Return the same draws, made on `device`."""
        return replace(self, id=self.id.to(device), position=self.position.to(device))

    def bits(self, purpose: str, count: int) -> Tensor:
        """Draw (B, count) int64, each a uniform 32-bit word."""
        if (kernel := self._kernel) is not None:
            return kernel.words(self._stream(purpose), count)
        return rearrange(torch.stack(self._words(purpose, count), -1), "b n w -> b (n w)")[:, :count]

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) float32 in the open interval (0, 1): midpoints of 2^23 equal cells, all exact."""
        cells = self.bits(purpose, math.prod(shape)) >> 9
        return ((cells.float() + 0.5) * 2.0**-23).reshape(-1, *shape)

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) float32 standard normals (Box and Muller 1958), up to 6.8 standard deviations."""
        count = math.prod(shape)
        if (kernel := self._kernel) is not None:
            return kernel.normal(self._stream(purpose), count).reshape(-1, *shape)
        w0, w1, w2, w3 = self._words(purpose, count)
        pairs = [*_box_muller(w0, w1), *_box_muller(w2, w3)]
        return rearrange(torch.stack(pairs, -1), "b n w -> b (n w)")[:, :count].reshape(-1, *shape)

    def _words(self, purpose: str, count: int) -> list[Tensor]:
        """Draw four (B, ceil(count / 4)) tensors of 32-bit words."""
        *stream, first = self._stream(purpose)
        if count <= 4:
            return [_tensor(word)[:, None] for word in first]
        block = _arange(-(-count // 4), self.id)
        k0, k1, c2, c3 = (word[:, None] for word in stream)
        return [_tensor(word) for word in _philox((block & _MASK, block >> 32, c2, c3), (k0, k1))]

    @property
    def _kernel(self) -> OnGpu | None:
        return on_gpu if on_gpu is not None and self.id.device.type == on_gpu.device_type else None

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
        if (kernel := self._kernel) is not None:
            signed = [[key - (key >> 63 << 64) for key in row] for row in keys]
            made = kernel.start(_tensor(_rows(signed, self.id)), self.id, self.position, self.step_index)
            self._streams.update(zip(purposes, made, strict=True))
            return
        k0, k1 = (
            _rows([[key >> shift & _MASK for key in row] for row in keys], self.id) for shift in (0, 32)
        )
        number, position = _words_of(self.id), _words_of(self.position)
        zero = number & 0
        mixed = _philox(
            (number & _MASK, (number >> 32) & _MASK, zero + self.step_index, position & _MASK), (k0, k1)
        )
        first = _philox((zero, zero, *mixed[2:]), mixed[:2])
        for row, purpose in enumerate(purposes):
            self._streams[purpose] = (*(word[row] for word in mixed), [word[row] for word in first])


class OnGpu(Protocol):
    """What `core.draw_kernels` does in place of operations on tensors.  device_type: of the ids it takes."""

    device_type: str

    def start(self, keys: Tensor, ids: Tensor, positions: Tensor, step_index: int) -> Tensor: ...

    def words(self, stream: Tensor, count: int) -> Tensor: ...

    def normal(self, stream: Tensor, count: int) -> Tensor: ...


on_gpu: OnGpu | None = None  # set by `models.kernels.kinds.use_kernels`, for the whole process


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Run Philox-4x32-10 on every counter under its key.

    counter: (..., 4) int64 and key: (..., 2) int64, each entry a 32-bit word; the leading shapes broadcast.
    Returns (..., 4) int64 of 32-bit words.
    """
    k0, k1 = key.unbind(-1)
    c0, c1, c2, c3 = counter.unbind(-1)
    return torch.stack(_philox((c0, c1, c2, c3), (k0, k1)), -1)


def _philox(counter: Sequence[Any], key: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Run the ten rounds; the four words broadcast with each other and with the key.

    On tensors of int64 (CUDA), or on arrays of uint64 (CPU, where NumPy takes a third of the time for small
    ones). Products wrap to the low 64 bits, which is all a 32x32 product needs. The upper halves of words
    carry rubbish between rounds and are masked only where the next product would see them: 10 operations a
    round.
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for round in range(_ROUNDS):
        if round:
            k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & _MASK, p1, ((p0 >> 32) ^ c3 ^ k1) & _MASK, p0
    return c0, c1 & _MASK, c2, c3 & _MASK


def _words_of(numbers: Tensor) -> Any:
    """View the memory in the form on which `_philox` is fastest."""
    return numbers.numpy().view(np.uint64) if numbers.device.type == "cpu" else numbers


def _tensor(words: Any) -> Tensor:
    return words if isinstance(words, Tensor) else torch.from_numpy(words.view(np.int64))


def _rows(numbers: list[list[int]], like: Tensor) -> Any:
    """Return a matrix; sent without waiting for queued work of the device, as `device=` would."""
    return _words_of(torch.tensor(numbers, dtype=torch.int64).to(like.device, non_blocking=True))


def _arange(count: int, like: Tensor) -> Any:
    return _words_of(torch.arange(count, device=like.device)[None])


def _box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two independent normals from two 32-bit words; the radius takes all of `a`, for the tails."""
    radius = ((a.float() + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = b.float() * (2 * math.pi * 2.0**-32)
    return radius * angle.cos(), radius * angle.sin_()
