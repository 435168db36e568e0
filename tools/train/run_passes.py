"""A forward and backward pass of a denoiser that belongs to no run, to measure its memory by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from core.averages.ema import EmaConfig
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.config import EngineConfig
from core.memory.counting import Pass
from core.optim.groups import OptimizerConfig
from data.loading.sources.kinds import LatentSource, Loader
from data.order.steps import LoaderConfig
from models.denoisers.network import DenoiserConfig, example_inputs
from tools.runs.memory.run_memory import MemoryOfRun, Planned, groups_of


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
            Planned(name, loader.plan, source.facts.batch_shapes, _passes(engine, model, source))
            for name, (source, loader) in sources.items()
        ],
    )


def _passes(engine: EngineConfig, model: DenoiserConfig, source: LatentSource) -> Callable[[int, int], Pass]:
    return lambda bucket, samples: lambda: _pass(engine, model, source, bucket, samples)


def denoiser_pass(
    engine: EngineConfig, config: DenoiserConfig, shape: tuple[int, ...], padded: int = 0
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a new network, and a loss of its answer to a micro-batch (b, C, T, H, W).

    Backends of attention are those of the rule in `models.attention.dispatch`; none keeps more than they do,
    but the one named `math`, which must be named.  padded: tokens to which captions are padded.
    """
    model = config.build()
    checkpoint_blocks(model.blocks, engine)

    def loss() -> Tensor:
        x, time, condition = example_inputs(config, shape, torch.get_default_device(), padded)
        return model(x, time, condition).square().mean()

    return model, loss


def _pass(
    engine: EngineConfig, config: DenoiserConfig, source: LatentSource, bucket: int, samples: int
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a new network, and its loss on a micro-batch that the source encodes first, where it does so.

    Ranks that share tokens each take their part of it.
    """
    facts = source.facts
    padded = facts.text_shape[0] if facts.text_shape is not None and config.text_width else 0
    model, loss = denoiser_pass(engine, config, (samples, *facts.latent_shapes[bucket]), padded)

    def encoded_loss() -> Tensor:
        if not source.gives_latents:
            source.moments(torch.zeros((samples, *facts.batch_shapes[bucket])))
        return loss()

    return model, encoded_loss
