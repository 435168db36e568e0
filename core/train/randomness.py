"""The randomness of a step: a function of seed, step and turn, and of nothing that came before."""

from __future__ import annotations

import hashlib

import torch

from core.batch import Batch
from core.distributed.ranks import World
from core.draws import Draws

_WEYL = 0x9E3779B97F4A7C15  # of the golden ratio: its multiples modulo 2^63 lie far apart
_TURN = 0xD1B54A32D192ED03  # likewise, of another irrational number


class Randomness:
    """The random draws of one rank in the steps of a run."""

    def __init__(self, seed: int, world: World) -> None:
        self.seed = seed
        self._on_cuda = world.device.type == "cuda"  # kept, since asking torch costs as much as a kernel
        digest = hashlib.blake2b(f"torch {seed} {world.rank}".encode(), digest_size=8).digest()
        self._torch_seed = int.from_bytes(digest, "little")

    def draws(self, step_index: int, batch: Batch) -> Draws:
        """Return the draws of a batch, on its device, in step `step_index`."""
        return Draws(self.seed, step_index, batch.id, batch.position)

    def seed_torch(self, step_index: int, turn: int = 0) -> None:
        """Seed torch for randomness inside networks (dropout), by step, turn and rank alone.

        The generators of this rank alone: `torch.manual_seed` goes through all devices, in half a
        millisecond.
        """
        number = (self._torch_seed + step_index * _WEYL + turn * _TURN) % 2**63
        torch.default_generator.manual_seed(number)
        if self._on_cuda:
            torch.cuda.manual_seed(number)
