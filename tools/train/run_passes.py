"""What the memory of a run is made of, and the passes by which its activations are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from core.averages.ema import EmaConfig
from core.engine.config import EngineConfig
from core.memory.counting import Pass
from core.memory.micro_batch import Measured
from core.optim.groups import OptimizerConfig
from data.loading.sources.kinds import LatentSource, Loader
from data.order.steps import LoaderConfig
from models.denoisers.network import DenoiserConfig
from tools.runs.memory.run_memory import MemoryOfRun, Planned, groups_of
from tools.train.denoiser_pass import activations, denoiser_pass


def memory_of(
    model: DenoiserConfig,
    data: LoaderConfig,
    ema: EmaConfig,
    optimizer: OptimizerConfig,
    sources: Mapping[str, tuple[LatentSource, Loader]],
    engine: EngineConfig,
) -> MemoryOfRun:
    """Return what the run's memory is made of.  sources: by their use, `train` first."""
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
                _passes(engine, model, source),
                _over_shapes(engine, model, source) if source.gives_latents else None,
            )
            for name, (source, loader) in sources.items()
        ],
    )


def _passes(engine: EngineConfig, model: DenoiserConfig, source: LatentSource) -> Callable[[int, int], Pass]:
    return lambda bucket, samples: lambda: _pass(engine, model, source, bucket, samples)


def _over_shapes(
    engine: EngineConfig, model: DenoiserConfig, source: LatentSource
) -> Callable[[int, torch.device], Measured]:
    """Return what counts activations as a plan does.

    A source that encodes is counted with its encoder, whose memory does not grow with blocks.
    """

    def count(bucket: int, device: torch.device) -> Measured:
        shape = source.facts.latent_shapes[bucket]
        return activations(model, engine, shape, _padded(source, model), device)

    return count


def _padded(source: LatentSource, model: DenoiserConfig) -> int:
    """Return to how many tokens captions are padded; 0 where the network takes none."""
    text = source.facts.text_shape
    return text[0] if text is not None and model.text_width else 0


def _pass(
    engine: EngineConfig, config: DenoiserConfig, source: LatentSource, bucket: int, samples: int
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a new network, and its loss on a micro-batch that the source encodes first, where it does so.

    Ranks that share tokens each take their part of it.
    """
    facts = source.facts
    shape = (samples, *facts.latent_shapes[bucket])
    model, loss = denoiser_pass(engine, config, shape, _padded(source, config))

    def encoded_loss() -> Tensor:
        if not source.gives_latents:
            source.moments(torch.zeros((samples, *facts.batch_shapes[bucket])))
        return loss()

    return model, encoded_loss
