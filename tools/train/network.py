"""The network as it is trained, and the shapes of its inputs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from core.batch import Condition
from core.distributed.ranks import World
from core.distributed.sequence import make_sequence_group
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.compiling import compile_blocks, compiled_graphs, warm_up
from core.engine.config import EngineConfig
from core.progress import say
from core.train.trainer import Trainer
from data.loading.sources.kinds import LatentSource, Loader
from models.attention.choice import settle
from models.denoisers.dit import DiT, DiTConfig
from models.layers.fp8 import use_fp8

Example = tuple[Tensor, Tensor, Condition]


def make_network(
    config: DiTConfig,
    engine: EngineConfig,
    shapes: list[tuple[int, ...]],
    world: World,
    *,
    seed: int,
    run: Path,
) -> DiT:
    """The network as it is trained, with backends for inputs of these shapes (collective: all ranks)."""
    torch.manual_seed(seed)
    model = DiT(config, make_sequence_group(world, engine.sequence_parallel))
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    lengths = [config.tokens((t, h, w)) for *_, t, h, w in shapes]
    model.use_attention(settle(model.attention_heads, world.device, dtype, lengths, run))
    if engine.matmul == "fp8":
        use_fp8(model.blocks, world.device)
    checkpoint_blocks(model.blocks, engine)
    return model


def micro_batch_shapes(source: LatentSource, loader: Loader) -> list[tuple[int, ...]]:
    """(b, C, T, H, W) of every micro-batch of latents that a rank will ever take."""
    plan, found = loader.plan, []
    for shape, size, weight in zip(source.facts.latent_shapes, plan.group_sizes, plan.weights, strict=True):
        share = size // plan.ranks
        most = plan.micro_batch or share
        found += [(n, *shape) for n in (min(most, share), share % most) if n and weight]
    return list(dict.fromkeys(found))


def compile_examples(
    source: LatentSource, loader: Loader, config: DiTConfig, device: torch.device
) -> list[Example]:
    """What the network gets of each micro-batch shape that there is."""
    text = source.facts.text_shape if config.text_width else None
    return [_example(shape, device, text) for shape in micro_batch_shapes(source, loader)]


def _example(shape: tuple[int, ...], device: torch.device, text: tuple[int, int] | None) -> Example:
    """What a DiT gets of a micro-batch (b, C, T, H, W). text: (L, D) of each sample."""
    label = torch.zeros(shape[0], dtype=torch.int64, device=device)
    condition = Condition(label=label)
    if text is not None:
        tokens = torch.zeros((shape[0], *text), dtype=torch.float16, device=device)
        condition = Condition(label=label, text=tokens, text_length=label)
    return torch.zeros(shape, device=device), label.float(), condition


def fit_compiled(trainer: Trainer, model: DiT, trained: list[Example], validated: list[Example]) -> None:
    """Compile the blocks for all that is trained and validated on, train, and say whether that was all."""
    compile_blocks(model.blocks)
    before = warm_up(model, trained, validated)
    say(f"compiled {before} graphs for {len(trained)} shapes of a micro-batch")
    trainer.fit()
    say(f"compiled {compiled_graphs() - before} graphs after the first step began")
