"""Put together the memory of a run from its state and the passes that measure its activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from core.averages.ema import EmaConfig
from core.batch import Batch
from core.diffusion.alignment.aligned import Alignment
from core.diffusion.objectives.config import ObjectiveConfig
from core.engine.config import EngineConfig
from core.errors import UserError
from core.memory.counting import Pass
from core.memory.micro_batch import Measured
from core.optim.groups import OptimizerConfig
from data.loading.sources.kinds import LatentSource, Loader
from data.order.steps import LoaderConfig
from models.denoisers.network import DenoiserConfig, forward_macs
from tools.runs.memory.run_memory import MemoryOfRun, Planned, groups_of
from tools.train.alignment import feature_bytes
from tools.train.denoiser_pass import Aligned, activations, denoiser_pass


def memory_of(
    model: DenoiserConfig,
    objective: ObjectiveConfig,
    data: LoaderConfig,
    ema: EmaConfig,
    optimizer: OptimizerConfig,
    sources: Mapping[str, tuple[LatentSource, Loader]],
    engine: EngineConfig,
    alignment: Alignment | None = None,
) -> MemoryOfRun:
    """Return what the run's memory is made of.

    sources: by their use, `train` first.  alignment: of a block with the features of the first.
    """
    plain = replace(optimizer, name="adamw", weight_decay=0.0)
    return MemoryOfRun(
        engine=engine,
        groups=groups_of(model.build, optimizer),
        averages=len(ema.names),
        prefetch=data.prefetch,
        planned=[
            Planned(
                name,
                loader.plan,
                source.facts.batch_shapes,
                _passes(engine, model, objective, source, aligned),
                _over_shapes(engine, model, objective, source, aligned) if is_latent else None,
                feature_bytes(source.facts) if aligned and source.gives_latents else (),
                _smaller(engine, model, objective, source, aligned),
            )
            for name, (source, loader) in sources.items()
            for aligned in [alignment if name == "train" else None]
            for is_latent in [source.gives_latents and not (aligned and source.facts.picture_shapes)]
        ],
        own=groups_of(alignment.projector, plain) if alignment else (),
        teaches=objective.kind == "distillation",
    )


def _passes(
    engine: EngineConfig,
    model: DenoiserConfig,
    objective: ObjectiveConfig,
    source: LatentSource,
    alignment: Alignment | None,
) -> Callable[[int, int], Pass]:
    known = engine, model, objective, source, alignment
    return lambda bucket, samples: lambda: _pass(*known, bucket, samples)


def _aligned(source: LatentSource, bucket: int, alignment: Alignment | None) -> Aligned | None:
    return Aligned(alignment, source.facts.feature_shapes[bucket]) if alignment else None


def _over_shapes(
    engine: EngineConfig,
    model: DenoiserConfig,
    objective: ObjectiveConfig,
    source: LatentSource,
    alignment: Alignment | None,
) -> Callable[[int, torch.device], Measured]:
    """Return what counts activations as a plan does.

    A source that encodes is counted with its encoder, whose memory does not grow with blocks.
    """

    def count(bucket: int, device: torch.device) -> Measured:
        shape = source.facts.latent_shapes[bucket]
        aligned = _aligned(source, bucket, alignment)
        return activations(model, engine, shape, _padded(source, model), device, aligned, objective)

    return count


def _smaller(
    engine: EngineConfig,
    model: DenoiserConfig,
    objective: ObjectiveConfig,
    source: LatentSource,
    alignment: Alignment | None,
) -> Callable[[int, float], tuple[Pass, float] | None]:
    """Return what makes a pass over latents of smaller sides, for a source that gives these."""

    def smaller(bucket: int, most: float) -> tuple[Pass, float] | None:
        channels, frames, height, width = source.facts.latent_shapes[bucket]
        text = _padded(source, model)
        for divisor in (2, 4, 8, 16):
            shape = frames, height // divisor, width // divisor
            if channels * math.prod(shape) > most or (height % divisor, width % divisor) != (0, 0):
                continue
            with suppress(UserError):  # a shape that the network cannot take
                work = [forward_macs(model, each, text) for each in ((frames, height, width), shape)]
                make = partial(denoiser_pass, engine, model, (1, channels, *shape), text, None, objective)
                return make, work[0] / work[1]
        return None

    return smaller if source.gives_latents and alignment is None else lambda bucket, most: None


def _padded(source: LatentSource, model: DenoiserConfig) -> int:
    """Return to how many tokens captions are padded; 0 where the network takes none."""
    text = source.facts.text_shape
    return text[0] if text is not None and model.text_width else 0


def _pass(
    engine: EngineConfig,
    config: DenoiserConfig,
    objective: ObjectiveConfig,
    source: LatentSource,
    alignment: Alignment | None,
    bucket: int,
    samples: int,
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a new network, and its loss on a micro-batch that the source encodes first, where it does so.

    Ranks that share tokens each take their part of it.
    """
    facts = source.facts
    shape = (samples, *facts.latent_shapes[bucket])
    aligned = _aligned(source, bucket, alignment)
    model, loss = denoiser_pass(engine, config, shape, _padded(source, config), aligned, objective)

    def encoded_loss() -> Tensor:
        rows = torch.zeros(samples, dtype=torch.int64)
        if not source.gives_latents:
            pixels = torch.zeros((samples, *facts.batch_shapes[bucket]))
            source.moments(pixels)
            if aligned is not None:
                source.features(Batch(pixels, rows, rows, rows.float()))
        elif aligned is not None and facts.picture_shapes:
            pictures = torch.zeros((samples, *facts.picture_shapes[bucket]), dtype=torch.uint8)
            source.features(Batch(pictures, rows, rows, rows.float(), features=pictures))
        return loss()

    return model, encoded_loss
