"""The generator under all draws: Philox-4x32-10 (Salmon et al., SC 2011), and normals from its words.

`rounds` makes few passes over memory, for the CPU; `rounds_in_pairs` the same integers in few operations,
since each is a kernel on a GPU. `TensorDraws` is what `core/draws.py` draws by on devices without kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1: the key's increments per round
ROUNDS = 10


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Run Philox-4x32-10 on every counter under its key.

    counter: (..., 4) int64 and key: (..., 2) int64, each entry a 32-bit word; the leading shapes broadcast.
    Returns (..., 4) int64 of 32-bit words.
    """
    return torch.stack(rounds(counter.unbind(-1), key.unbind(-1)), -1)


def rounds(counter: Sequence[Any], key: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Run the ten rounds; the four words broadcast with each other and with the key.

    On tensors of int64, or on arrays of uint64 (CPU, where NumPy takes a third of the time for small ones).
    Products wrap to the low 64 bits, which is all a 32x32 product needs. The upper halves of words carry
    rubbish between rounds and are masked only where the next product would see them: 10 operations a round,
    and 4 for the key.
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for round in range(ROUNDS):
        if round:
            k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & MASK, p1, ((p0 >> 32) ^ c3 ^ k1) & MASK, p0
    return c0, c1 & MASK, c2, c3 & MASK


def rounds_in_pairs(even: Tensor, odd: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Run the ten rounds in 6 operations each, and 2 for all keys.

    even: (2, ...) int64, the words 0 and 2 of the counters.  odd: (2, ...), the words 1 and 3.  key:
    (2, ...). They broadcast; `even` holds 32-bit words, and of the others the upper halves do not count.
    Returns even and odd words; the upper halves of the latter are rubbish.
    """
    keys = key + _raised(key)
    for round in range(ROUNDS):
        products = torch.empty_like(even)
        torch.mul(even[1], MULTIPLIERS[1], out=products[0])
        torch.mul(even[0], MULTIPLIERS[0], out=products[1])
        even = ((products >> 32).bitwise_xor_(odd) ^ keys[round]).bitwise_and_(MASK)
        odd = products
    return even, odd


def _raised(key: Tensor) -> Tensor:
    """Return what each round adds to a key, (10, 2, 1, ...); sent without waiting for the device."""
    sums = torch.tensor([[round * word for word in WEYL] for round in range(ROUNDS)])
    return sums.to(key.device, non_blocking=True).reshape(ROUNDS, 2, *[1] * (key.ndim - 1))


class OnDevice(Protocol):
    """Draws on a device that counts operations: `TensorDraws`, or kernels.

    device_type: of the ids it takes.  prefers_one_go: whether several draws in one call are fewer operations.
    """

    device_type: str
    prefers_one_go: bool

    def start(self, keys: Tensor, ids: Tensor, positions: Tensor, step_index: int) -> Tensor:
        """Return (purposes, 8, B) int64: keys, counters and the first block of every stream.

        keys: (purposes, 1 or B) int64, 64 bits each.
        """
        ...

    def words(self, stream: Tensor, count: int) -> Tensor:
        """Return (B, count) int64 words of a stream (8, B)."""
        ...

    def normal(self, stream: Tensor, count: int) -> Tensor:
        """Return (B, count) float32 normals of a stream (8, B)."""
        ...


class TensorDraws:
    """Draws by operations on tensors of any device, in few of them."""

    device_type, prefers_one_go = "cuda", True

    def start(self, keys: Tensor, ids: Tensor, positions: Tensor, step_index: int) -> Tensor:
        """Return (purposes, 8, B) int64 streams."""
        streams = ids.new_empty(len(keys), 2, 2, 2, len(ids))  # of each block the halves, and their two words
        halves = torch.stack([keys & MASK, keys >> 32])
        low = torch.stack([ids & MASK, torch.full_like(ids, step_index)])[:, None]
        high = torch.stack([ids >> 32, positions])[:, None]
        for block in range(2):
            even, odd = rounds_in_pairs(low, high, halves)
            _keep(streams[:, block], even, odd)
            halves = streams[:, 0, 0].transpose(0, 1)
            low, high = even, odd
            low[0].zero_()
            high[0].zero_()
        return streams.flatten(1, 3)

    def words(self, stream: Tensor, count: int) -> Tensor:
        """Return (B, count) int64 words."""
        even, odd = self._rounds(stream, count)
        out = even.new_empty(*even.shape[1:], 2, 2)
        _keep(out.movedim((2, 3), (1, 2)), even, odd)
        return out.flatten(1)[:, :count]

    def normal(self, stream: Tensor, count: int) -> Tensor:
        """Return (B, count) float32 normals."""
        even, odd = self._rounds(stream, count)
        out = even.new_empty(*even.shape[1:], 2, 2, dtype=torch.float32)
        radius, angle = _radius(even), _angle(odd.bitwise_and_(MASK))
        torch.mul(radius, angle.cos(), out=out[..., 0].movedim(2, 0))
        torch.mul(radius, angle.sin_(), out=out[..., 1].movedim(2, 0))
        return out.flatten(1)[:, :count]

    def _rounds(self, stream: Tensor, count: int) -> tuple[Tensor, Tensor]:
        k0, k1, c2, c3 = stream[:4, :, None].unbind()
        block = torch.arange(-(-count // 4), device=stream.device)
        even = torch.stack(torch.broadcast_tensors(block & MASK, c2))
        odd = torch.stack(torch.broadcast_tensors(block >> 32, c3))
        return rounds_in_pairs(even, odd, torch.stack([k0, k1]))


def _keep(block: Tensor, even: Tensor, odd: Tensor) -> None:
    """Write the four words (2, A, B) of a block to (A, 2, 2, B): halves, and the two words of each."""
    block[:, :, 0].copy_(even.transpose(0, 1))
    torch.bitwise_and(odd.transpose(0, 1), MASK, out=block[:, :, 1])


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two independent normals from two 32-bit words; the radius takes all of `a`, for the tails."""
    radius, angle = _radius(a), _angle(b)
    return radius * angle.cos(), radius * angle.sin_()


def _radius(word: Tensor) -> Tensor:
    return word.float().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()


def _angle(word: Tensor) -> Tensor:
    return word.float() * (2 * math.pi * 2.0**-32)
