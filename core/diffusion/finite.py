"""Name the sample and the evaluation at which a network's estimates were no longer finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from core.diffusion.solvers.levels import Denoise, Estimate, Level
from core.errors import WorkError


class FiniteWatch:
    """Notes on the device, for each sample, its first evaluation that was not finite; the host asks once.

    by: what estimates, for the message.  at_once: end with the first such evaluation, for which the host
    waits in each: where a step is tried again for as long as its error is not small.
    """

    def __init__(self, ids: Tensor, by: str = "the network", *, at_once: bool = False) -> None:
        self._ids, self._times, self._by, self._at_once = ids, list[float](), by, at_once
        self._first = torch.full_like(ids, -1)

    def over(self, denoise: Denoise) -> Denoise:
        """Return the same estimates, watched."""

        def watched(x: Tensor, level: Level) -> Estimate:
            estimate = denoise(x, level)
            bad = ~torch.isfinite(estimate.witness).reshape(len(x), -1).all(1)
            self._first = torch.where(bad & (self._first < 0), len(self._times), self._first)
            self._times.append(level.t)
            if self._at_once and bool(bad.any()):
                raise WorkError("an estimate is not finite")  # which `naming` says more of
            return estimate

        return watched

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Raise WorkError at the end of the block where an estimate was not finite."""
        try:
            yield
        finally:
            found = self._first.tolist()  # the one time that the host waits for the device
            places = [place for place, evaluation in enumerate(found) if evaluation >= 0]
            if places:
                first = min(places, key=lambda place: found[place])
                number = found[first]
                others = f", and {len(places) - 1} others of the batch later or at once" * (len(places) > 1)
                raise WorkError(
                    f"sample {int(self._ids[first])}: what {self._by} estimates is not finite at evaluation "
                    f"{number + 1}, time {self._times[number]:.4g}{others}"
                ) from None
