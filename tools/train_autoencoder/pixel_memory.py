"""The memory of autoencoder training, measured by a forward and backward pass that belongs to no run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from core.averages.ema import EmaConfig
from core.batch import Batch
from core.draws import Draws
from core.engine.config import EngineConfig
from core.memory.counting import Pass
from core.optim.groups import OptimizerConfig
from data.loading.pixels import PixelLoader
from models.autoencoder.interface import AutoencoderConfig
from tools.runs.memory.run_memory import MemoryOfRun, Planned, groups_of
from tools.train_autoencoder.config import ReconstructionConfig
from tools.train_autoencoder.reconstruction_loss import ReconstructionObjective

PIXEL_CHANNELS = 3


def memory_of(
    model: AutoencoderConfig,
    objective: ReconstructionConfig,
    ema: EmaConfig,
    optimizer: OptimizerConfig,
    loader: PixelLoader,
    prefetch: int,
    engine: EngineConfig,
) -> MemoryOfRun:
    """Return what the run's memory is made of.  prefetch: steps of samples that are read ahead."""

    def passes(bucket: int, samples: int) -> Pass:
        shape = (samples, PIXEL_CHANNELS, *loader.buckets[bucket])
        return lambda: _pass(model, objective, shape)

    def smaller(bucket: int, most: float) -> tuple[Pass, float] | None:
        """Return a pass over fewer pixels: convolutions do as much for each."""
        frames, height, width = loader.buckets[bucket]
        times = math.sqrt(PIXEL_CHANNELS * frames * height * width / most)
        least = 2 * model.spatial_compression
        sides = [max(least, side / times // least * least) for side in (height, width)]
        shape = (1, PIXEL_CHANNELS, frames, *map(int, sides))
        if math.prod(shape) > most:
            return None
        return lambda: _pass(model, objective, shape), height * width / math.prod(sides)

    return MemoryOfRun(
        engine=engine,
        groups=groups_of(model.build, optimizer),
        averages=len(ema.names),
        prefetch=prefetch,
        planned=[
            Planned(
                "train",
                loader.plan,
                [(PIXEL_CHANNELS, *bucket) for bucket in loader.buckets],
                passes,
                smaller=smaller,
            )
        ],
    )


class _Zeros(Draws):
    """Draws of the same shapes, for passes that compute nothing: numbers need real memory."""

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Return zeros of the shape that the draws would have."""
        return torch.zeros((len(self.id), *shape))


def _pass(
    config: AutoencoderConfig, objective: ReconstructionConfig, shape: tuple[int, ...]
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a new network, and its loss on a micro-batch of pixels of this shape."""
    model, losses = config.build(), ReconstructionObjective(objective, config)

    def loss() -> Tensor:
        number = torch.zeros(shape[0], dtype=torch.int64)
        batch = Batch(x=torch.zeros(shape), id=number, position=number, weight=number.float())
        return losses.loss(model, batch, _Zeros(0, 0, number, number)).loss.mean()

    return model, loss
