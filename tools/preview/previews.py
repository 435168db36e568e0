"""Previews in training: the same samples from the same noise under every average, as pictures and films."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.distributed import ranks
from core.engine.network import Network
from core.errors import WorkError
from core.metrics.rows import Metrics
from core.run.folder import PREVIEWED
from models.autoencoder.interface import AnyAutoencoder
from tools.preview.equal_shares import Share
from tools.preview.preview_files import PreviewFiles
from tools.preview.sampled_look import Requested, SampledLook, Watched
from tools.sample.generating import Maker, decode


class Previews(SampledLook):
    """Makes previews."""

    def __init__(
        self,
        every: int,
        requested: Requested,
        network: Network,
        maker: Maker,
        autoencoder: AnyAutoencoder,
        files: PreviewFiles,
    ) -> None:
        super().__init__(every, files.run / PREVIEWED, requested, network, maker)
        self._autoencoder, self._files = autoencoder, files

    def line(self, row: dict[str, Any]) -> str:
        """Say where they are, or what failed."""
        parts = {name: part for name, part in row.items() if name != "step"}
        failed = [f"{name}: {part['failed']}" for name, part in parts.items() if "failed" in part]
        if failed:
            reasons = "; ".join(failed)
            return f"warning: no preview after step {row['step']}, and training continues: {reasons}"
        shown = ", ".join(part["overview"] for part in parts.values())
        return f"preview after step {row['step']}: {shown}"

    def show(self, row: dict[str, Any], metrics: Metrics) -> None:
        """Show the overviews, and films, in the trackers."""
        pictures: dict[str, Path] = {}
        for name, part in row.items():
            if name == "step" or "failed" in part:
                continue
            pictures[f"preview/{name}"] = self._files.run / part["overview"]
            films = [file for file in part["files"] if not file.endswith(".png")]
            pictures |= {f"preview/{name}/{n}": self._files.run / film for n, film in enumerate(films)}
        metrics.show_pictures(row["step"], pictures)

    def see(self, share: Share, latents: Tensor) -> tuple[Share, Tensor]:
        """Keep the latents of a batch."""
        return share, latents

    def outcome(
        self, step: int, average: str, seen: list[tuple[Share, Tensor]], problem: str, model: Watched
    ) -> dict[str, Any]:
        """Publish the samples of an average; return their paths, or why there are none (collective)."""
        try:
            written = ranks.on_every_rank(lambda: self._written(step, average, seen, problem, model))
            overview = ranks.on_first_rank(lambda: self._files.draw(step, average))
        except WorkError as error:
            return {"failed": str(error)}
        return {"overview": overview, "files": sorted(file for files in written for file in files)}

    def _written(
        self, step: int, average: str, seen: list[tuple[Share, Tensor]], problem: str, model: Watched
    ) -> list[str]:
        """Decode and publish this rank's own samples; return their paths.  WorkError for `problem`."""
        if problem:
            raise WorkError(problem)
        found: list[str] = []
        with _on_device(self._autoencoder, self.maker):
            for share, latents in seen if self.is_own else ():
                model.alive()
                numbers = share.samples[: share.own]
                for number, pixels in zip(numbers, self._pixels(share, latents), strict=True):
                    found.append(self._files.write(step, average, int(number), pixels))
        return found

    def _pixels(self, share: Share, latents: Tensor) -> NDArray[np.uint8]:
        schedule, normaliser = self.requested.schedule, self.maker.space.normaliser
        frames = schedule.forms[schedule.form[share.samples[0]]].size.frames
        return decode(self._autoencoder, normaliser, latents[: share.own], frames)


@contextmanager
def _on_device(autoencoder: AnyAutoencoder, maker: Maker) -> Iterator[None]:
    """Have the decoder on the device for the block, and its memory for training after it."""
    autoencoder.to(maker.device)
    try:
        yield
    finally:
        autoencoder.to("cpu")
