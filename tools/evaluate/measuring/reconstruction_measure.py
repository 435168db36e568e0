"""Measure what an autoencoder loses of real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.queue.config import QueueConfig
from tools.evaluate import reconstruction, scored
from tools.evaluate.measuring.measuring import Measuring
from tools.evaluate.reconstruction import Comparison


def lines(asked: Comparison) -> list[str]:
    """Say what would be encoded and decoded."""
    scored.require_reconstructed(asked.real, asked.source)
    reconstruction.opened(asked)
    height, width = asked.reconstruction.size
    images = f"at most {asked.most_real} images of {asked.real} at {width}x{height}"
    return [f"{images}, encoded and decoded by {asked.source}"]


class OfAutoencoder(Measuring):
    """An autoencoder and the networks that judge its copies."""

    def __init__(self, asked: Comparison) -> None:
        self._asked, self.of = asked, scored.require_reconstructed(asked.real, asked.source)
        self._networks = reconstruction.opened(asked)
        lpips = {f"reconstruction.{name}": file for name, file in asked.reconstruction.files().items()}
        self.of |= scored.hashes_of_weights(lpips | {"extractor_weights": asked.extractor_weights})

    def work(self, output: Path, queue: QueueConfig, publish: Callable[[dict[str, Any]], None]) -> None:
        """Compare images with their copies, with other workers."""
        reconstruction.share(self._asked, self._networks, self.of, output, queue, publish)
