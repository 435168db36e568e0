"""A forward and backward pass of a denoiser that belongs to no run, and its activations over shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.diffusion.alignment.aligned import Alignment
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.config import EngineConfig
from core.losses import Losses
from core.memory.counting import live_bytes
from core.memory.micro_batch import Measured
from models.denoisers.network import DenoiserConfig, example_inputs

MANY = 16  # samples of which activations are counted beside those of one: between and beyond, by a line
CPU = torch.device("cpu")


class Aligned(NamedTuple):
    """An alignment, and the shape (F, h, w, E) of a sample's features."""

    alignment: Alignment
    features: tuple[int, ...]


def denoiser_pass(
    engine: EngineConfig,
    config: DenoiserConfig,
    shape: tuple[int, ...],
    padded: int = 0,
    aligned: Aligned | None = None,
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a new network, and a loss of its answer to a micro-batch (b, C, T, H, W).

    Backends of attention are those of the rule in `models.attention.dispatch`; none keeps more than they do,
    but the one named `math`, which must be named.  padded: tokens to which captions are padded.  aligned:
    with what a block is aligned beside it, by a projector that is part of the network returned.
    """
    model = config.build()
    checkpoint_blocks(model.blocks, engine)
    inputs = lambda: example_inputs(config, shape, torch.get_default_device(), padded)  # noqa: E731

    def loss() -> Tensor:
        return model(*inputs()).square().mean()

    if aligned is None:
        return model, loss
    alignment, projector = aligned.alignment, aligned.alignment.projector()

    def project(part: str, tokens: Tensor) -> Tensor:
        found: Tensor = projector(tokens.to(next(projector.parameters()).dtype))
        return found

    def aligned_loss() -> Tensor:
        features = torch.zeros((shape[0], *aligned.features), dtype=torch.float16)
        prediction, tokens = model(*inputs(), hidden=alignment.block)
        losses = Losses(prediction.square().flatten(1).mean(1))
        return alignment.added(losses, tokens, features, project, 0).loss.mean()

    return nn.ModuleList([model, projector]), aligned_loss


def activations(
    model: DenoiserConfig,
    engine: EngineConfig,
    shape: tuple[int, ...],
    text_tokens: int,
    device: torch.device = CPU,
    aligned: Aligned | None = None,
) -> Measured:
    """Count the activations of samples of a shape (C, T, H, W): nothing is computed.

    Counted are networks of few blocks: each further block (every_k: each k of them) adds the same bytes.
    For a CPU attention keeps what torch's fused kernels keep, as on a GPU; the rule for CPUs takes chunks,
    which keep no more, and of which long clips have thousands.
    """
    if device.type == "cpu" and getattr(model, "attention", "") == "auto":
        model = replace(model, attention="sdpa")  # type: ignore[type-var]

    one, many = (_peak(model, engine, (count, *shape), text_tokens, device, aligned) for count in (1, MANY))
    return Measured([one], [one + -(-(many - one) // (MANY - 1))])


def _peak(
    model: DenoiserConfig,
    engine: EngineConfig,
    shape: tuple[int, ...],
    text_tokens: int,
    device: torch.device,
    aligned: Aligned | None,
) -> int:
    """Return the most bytes of a pass over a micro-batch."""
    if aligned is not None:  # the first block stands for the aligned one, which few blocks may not have
        first = replace(aligned.alignment.config, block=1)
        aligned = aligned._replace(alignment=replace(aligned.alignment, config=first))
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32

    def peak(config: DenoiserConfig) -> int:
        make = lambda: denoiser_pass(engine, config, shape, text_tokens, aligned)  # noqa: E731
        return max(live_bytes(make, dtype=dtype, device=device, fake=True))

    period = engine.checkpoint_every if engine.activation_checkpointing == "every_k" else 1
    depth: int = getattr(model, "depth", 0)
    few = depth % period + period
    if depth <= few + period:  # a network without that field too
        return peak(model)
    less, more = (peak(replace(model, depth=count)) for count in (few, few + period))  # type: ignore[type-var]
    return less + (more - less) * ((depth - few) // period)
