"""Build the network as it is trained, and list the shapes of its inputs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from core.distributed.ranks import World
from core.distributed.sequence import make_sequence_group
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.compiling import compilations, compile_blocks, compile_functions, warm_up
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.errors import below
from core.first_values.recording import without_weights
from core.progress import say
from core.train.trainer import Trainer
from data.loading.sources.kinds import LatentSource, Loader
from models.attention.choice import settle
from models.denoisers.network import Denoiser, DenoiserConfig, Example, example_inputs
from models.kernels.kinds import use_kernels
from models.layers.eight_bits.kinds import use_eight_bits


def make_network(
    config: DenoiserConfig,
    engine: EngineConfig,
    shapes: list[tuple[int, ...]],
    world: World,
    *,
    seed: int,
    run: Path,
) -> Denoiser:
    """Build the network for training, with backends for inputs of these shapes (collective: all ranks).

    It comes without its weights where it can: the engine makes those that it keeps.
    """
    torch.manual_seed(seed)
    with below("engine"):
        sequence = make_sequence_group(world, engine.sequence_parallel)
    model = without_weights(partial(config.build, sequence))
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    if heads := config.attention_heads(engine.sequence_parallel):
        with below("model"):
            sizes = [(samples, config.tokens((t, h, w))) for samples, _, t, h, w in shapes]
            model.use_attention(settle(heads, world.device, dtype, sizes, run))
    if engine.matmul != "bf16":
        with below("engine"):
            use_eight_bits(engine.matmul, model.blocks, world.device)
    if engine.kernels != "torch":
        with below("engine"):
            use_kernels(engine.kernels, model, world.device)
    checkpoint_blocks(model.blocks, engine)
    return model


def micro_batch_shapes(source: LatentSource, loader: Loader) -> list[tuple[int, ...]]:
    """Return (b, C, T, H, W) of every micro-batch of latents that a rank will ever take."""
    plan, found = loader.plan, []
    for number, (shape, weight) in enumerate(zip(source.facts.latent_shapes, plan.weights, strict=True)):
        found += [(size, *shape) for size in plan.micro_batches(number) if weight]
    return list(dict.fromkeys(found))


def compile_examples(
    source: LatentSource, loader: Loader, config: DenoiserConfig, device: torch.device
) -> list[Example]:
    """Return example inputs of the network, one for each micro-batch shape."""
    text = source.facts.text_shape
    padded = text[0] if text is not None and config.text_width else 0
    return [example_inputs(config, shape, device, padded) for shape in micro_batch_shapes(source, loader)]


def compile_for(engine: EngineConfig, model: Denoiser) -> None:
    """Have compiled what the engine allows of a network: its blocks, or their functions without weights."""
    if engine.compiles == "functions":
        compile_functions(model)
    elif engine.compiles:
        compile_blocks(model.blocks)


def fit_compiled(
    trainer: Trainer, engine: Engine, model: Denoiser, trained: list[Example], validated: list[Example]
) -> None:
    """Compile for all shapes of training and validation, train, and say whether those were all."""
    compile_for(engine.config, model)
    graphs = warm_up(engine, trained, validated)
    say(f"compiled {graphs} graphs for {len(trained)} shapes of a micro-batch")
    before = compilations()
    trainer.fit()
    say(f"compiled {compilations() - before} graphs after the first step began")
