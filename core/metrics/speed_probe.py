"""Measure this rank's GPU speed, independent of other ranks, by timing a small product of fixed size.

Where ranks meet, the fast ones wait for the slow one inside kernels, so all of them take the same time for a
step; and a host's clock sees nothing of it, since the host runs ahead of its GPU. The probe meets nobody.
"""

from __future__ import annotations

import torch

SIZE = 2048  # 17 GFLOP a product: about 30 microseconds of an H200
TIMES = 4


class SpeedProbe:
    """Times bf16 products on a GPU; on any other device it does nothing.

    seconds: of the fastest of the last TIMES products, 0 while there are none.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device, self._factor = device, torch.empty(0)
        self._events: list[torch.cuda.Event] = []

    def begin(self) -> None:
        """Queue the products, behind what the device is still to do; the host does not wait."""
        if self._device.type != "cuda":
            return
        if not len(self._factor):
            self._factor = torch.ones(SIZE, SIZE, dtype=torch.bfloat16, device=self._device)
        out = self._factor @ self._factor  # keeps the device busy until the host has queued the others
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(TIMES + 1)]
        for number, event in enumerate(self._events):
            if number:
                torch.mm(self._factor, self._factor, out=out)
            event.record()

    def read(self) -> None:
        """Take the times; the host has waited for the device since `begin`."""
        if self._events:
            pairs = zip(self._events, self._events[1:], strict=False)
            self.seconds = min(one.elapsed_time(next_) for one, next_ in pairs) / 1000
            self._events = []
