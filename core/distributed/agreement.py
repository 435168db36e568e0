"""Detect ranks that are in different steps, or order samples differently, in the reduction that every step
has anyway."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.batch import Batch, Tally
from core.distributed import ranks
from core.distributed.ranks import World
from core.errors import WorkError
from core.permutations import scrambled

_MODULUS = 1 << 12  # keeps the sums of squares exact for any number of ranks
_HASHES = 1 << 40  # keeps the sum of hashes exact in float64, for up to 2^13 of them


def order_hash(step_index: int, ids: np.ndarray, positions: np.ndarray) -> int:
    """Hash a step's samples and their order: ids and positions, (n,) integers, to [0, 2^40).

    The hashes of parts of a step add up, modulo 2^40, to that of the whole, in any order. Of each sample it
    is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), its upper 40 bits.
    """
    z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += positions.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
    z += np.uint64((step_index + 1) * 0x8CB92BA72F3D8DD7 % (1 << 64))
    return int((scrambled(z) >> np.uint64(24)).sum()) % _HASHES


def tally(step_index: int, batch: Batch) -> Tally:
    """Tally a micro-batch of a step, in host memory."""
    weight = float(batch.weight.numpy().sum())
    return Tally(weight, order_hash(step_index, batch.id.numpy(), batch.position.numpy()))


class StepAgreement:
    """The total weight of a step's samples over ranks, and a check that all ranks are in the same step and
    together hold exactly the samples that make it up.

    A rank that has left out or repeated a step would go on unnoticed, since its collectives still match those
    of the others. Along with the weights the ranks add up k and k^2 (k: the step's index): the mean of the
    squares is the square of the mean only if all k are equal. They also add up the hashes of the samples they
    hold. The rank whose turn it is (`Batch.order_hash`) compares the sum with the hash of the whole step that
    its own loader gave it, so a sample missing, doubled or in another place, and a rank with another index or
    seed, cannot pass.
    all_count: whether every sample of this rank has weight 1.
    order_hash: `order_hash` of the whole step, the same on all ranks; None before `require`.
    """

    def __init__(
        self,
        step_index: int,
        micro_batches: Sequence[Batch],
        world: World,
        peers: int = 1,
        *,
        ends: bool = False,
    ) -> None:
        """Start to sum (collective: all ranks).

        peers: how many neighbouring ranks hold the same samples.  ends: whether this rank was asked to end
        the run.
        """
        self._step, self._k, self._ranks = step_index + 1, step_index % _MODULUS, world.size
        self._expected, self._peers = micro_batches[0].order_hash, peers
        weight, hashes, samples = 0.0, 0, 0
        for batch in micro_batches:
            one = batch.tally or tally(step_index, batch)
            weight, hashes, samples = weight + one.weight, hashes + one.hash, samples + len(batch)
        self.all_count = weight == samples
        self.order_hash: int | None = None
        hashes %= _HASHES
        once = hashes if world.rank % peers == 0 else 0
        self._numbers = [weight, self._k, self._k**2, hashes, once, float(ends)]
        self._sum: ranks.PendingSum | None = None
        if world.size > 1:
            numbers = torch.tensor(self._numbers, dtype=torch.float64)
            self._sum = ranks.PendingSum(numbers.to(world.device, non_blocking=True))

    def total_weight(self) -> Tensor | float:
        """Return the sum of the weights: with several ranks float32, on the device."""
        return self._sum.wait()[0].float() if self._sum else self._numbers[0]

    def require(self) -> bool:
        """Raise WorkError where ranks disagree; return whether any was asked to end, the same on all of them.

        Reads the device, so it is called after the update, which does so too.
        """
        _, total, squares, hashes, once, ends = self._sum.wait().tolist() if self._sum else self._numbers
        if (total, squares) != (self._ranks * self._k, self._ranks * self._k**2):
            raise WorkError(f"rank in step {self._step} while others are in another one; the run ends")
        self.order_hash = int(once) % _HASHES
        if int(hashes) % _HASHES != self._peers * self.order_hash % _HASHES:
            raise WorkError(
                f"ranks that share samples hold different ones in step {self._step}; the run ends"
            )
        if self._expected not in (None, self.order_hash):
            raise WorkError(
                f"the samples that all ranks hold in step {self._step} are not those that make it up "
                "here: not every rank reads the same data with the same settings; the run ends"
            )
        return ends > 0
