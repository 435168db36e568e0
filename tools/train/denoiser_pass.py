"""A training step of a denoiser that belongs to no run, and its activations over shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.diffusion.alignment.aligned import Alignment
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.noised import NoisyBatch
from core.diffusion.paths.chain import STEPS
from core.diffusion.paths.config import SIGMAS, PathRecord
from core.diffusion.paths.straight import RectifiedFlow
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.config import EngineConfig
from core.memory.counting import live_bytes
from core.memory.micro_batch import Measured
from core.memory.outlines import OutlinedBytes
from models.denoisers.network import DenoiserConfig, example_inputs

WIDEST, MOST_NUMBERS = 1024, 1 << 22  # of a token; of all tokens, of which a block has some hundred each
MANY = 16  # samples of which activations are counted beside those of one: between and beyond, by a line
CPU = torch.device("cpu")
USUAL = ObjectiveConfig()


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
    learned: ObjectiveConfig = USUAL,
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a new network, and the loss of a training step on a micro-batch (b, C, T, H, W).

    Backends of attention are those of the rule in `models.attention.dispatch`; none keeps more than they do,
    but the one named `math`, which must be named.  padded: tokens to which captions are padded.  aligned:
    with what a block is aligned beside it.  learned: the objective, whose own parameters and whose teacher
    are parts of the network returned.
    """
    model, objective = config.build(), _objective(learned, config, aligned)
    checkpoint_blocks(model.blocks, engine)
    parts: list[nn.Module] = [model]
    if (own := objective.own_parameters()) is not None:
        for parameter in own.parameters():
            parameter.in_fp32 = True  # type: ignore[attr-defined]
        objective.use(own)
        parts.append(own)
    if learned.kind == "distillation":
        teacher = config.build().requires_grad_(False)
        objective.learn_from(teacher)
        parts.append(teacher)

    def loss() -> Tensor:
        noised = _noised(objective, config, shape, padded)
        features = torch.zeros((shape[0], *aligned.features), dtype=torch.float16) if aligned else None
        return objective.loss_of(model, noised, features).loss.mean()

    return nn.ModuleList(parts), loss


def _objective(learned: ObjectiveConfig, config: DenoiserConfig, aligned: Aligned | None) -> Objective:
    """Return an objective whose step takes what one of the run takes; it reads no file.

    What a step takes does not depend on the levels of noise, and a table of them that has met shapes without
    values keeps these: so they are those of the straight path.
    """
    known: Any = {"frame_condition": config.frame_condition, "frames_per_level": config.frames_per_level}
    known["alignment"] = aligned.alignment if aligned else None
    found = Objective(learned, path=PathRecord(name="rectified_flow"), density=(1.0,), **known)
    num_steps = STEPS if learned.path.startswith("ddpm_") else None
    found.path = RectifiedFlow(num_steps=num_steps, scales_input=learned.path in SIGMAS)
    return found


def _noised(objective: Objective, config: DenoiserConfig, shape: tuple[int, ...], padded: int) -> NoisyBatch:
    """Return zeros in the place of noised data, half-way along the path."""
    x0, told, condition = example_inputs(config, shape, torch.get_default_device(), padded)
    times = told.shape if config.frames_per_level else told.shape[:1]
    t, noise = told.new_full(times, 0.5), torch.zeros_like(x0)
    noised = objective.noised_at(x0, condition, t, noise)
    return noised if objective.config.kind == "denoising" else replace(noised, noise=noise, end=t / 2)


def activations(
    model: DenoiserConfig,
    engine: EngineConfig,
    shape: tuple[int, ...],
    text_tokens: int,
    device: torch.device = CPU,
    aligned: Aligned | None = None,
    learned: ObjectiveConfig = USUAL,
) -> Measured:
    """Count the activations of samples of a shape (C, T, H, W): nothing is computed.

    Counted are networks of few blocks: each further block (every_k: each k of them) adds the same bytes.
    For a CPU attention keeps what torch's fused kernels keep, as on a GPU; the rule for CPUs takes chunks,
    which keep no more, and of which long clips have thousands.
    """
    if device.type == "cpu" and getattr(model, "attention", "") == "auto":
        model = replace(model, attention="sdpa")  # type: ignore[type-var]

    known = text_tokens, device, aligned, learned
    one, many = (_peak(model, engine, (count, *shape), *known) for count in (1, MANY))
    return Measured([one], [one + -(-(many - one) // (MANY - 1))])


def _is_small(model: DenoiserConfig, shape: tuple[int, ...]) -> bool:
    """Return whether few blocks, and what a pass through them has, may lie in this process's memory."""
    width: int = getattr(model, "width", WIDEST + 1)
    return width <= WIDEST and shape[0] * model.tokens(shape[2:]) * width <= MOST_NUMBERS  # type: ignore[arg-type]


def _peak(
    model: DenoiserConfig,
    engine: EngineConfig,
    shape: tuple[int, ...],
    text_tokens: int,
    device: torch.device,
    aligned: Aligned | None,
    learned: ObjectiveConfig,
) -> int:
    """Return the most bytes of a pass over a micro-batch."""
    if aligned is not None:  # the first block stands for the aligned one, which few blocks may not have
        first = replace(aligned.alignment.config, block=1)
        aligned = aligned._replace(alignment=replace(aligned.alignment, config=first))
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32

    is_small = device.type == "cpu" and _is_small(model, shape)
    how: Any = {"fake": False, "counter": OutlinedBytes} if is_small else {"fake": True}

    def peak(config: DenoiserConfig) -> int:
        known = text_tokens, aligned, learned
        make = lambda: denoiser_pass(engine, config, shape, *known)  # noqa: E731
        return max(live_bytes(make, dtype=dtype, device=device, **how))

    period = engine.checkpoint_every if engine.activation_checkpointing == "every_k" else 1
    depth: int = getattr(model, "depth", 0)
    few = depth % period + period
    if depth <= few + period:  # a network without that field too
        return peak(model)
    less, more = (peak(replace(model, depth=count)) for count in (few, few + period))  # type: ignore[type-var]
    return less + (more - less) * ((depth - few) // period)
