"""Recipes as a person starts them: dry runs on data of their shape, and tiny runs that really train."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config.loading import load
from core.distributed.ranks import World
from core.records import read_rows
from core.root import ROOT
from tests.data.samples import clip_bytes, image_bytes, picture
from tests.integration.recipe_cache import make_recipe_cache
from tests.integration.tiny_run import finish
from tests.models.public_models import save_autoencoder, save_text_encoder
from tests.tools.plan.recipe_table import DATA, planned
from tools.encode import job as encode
from tools.plan.config import Config
from tools.plan.memory import activations
from tools.plan.step_samples import workload
from tools.runs import run_hours
from tools.shard import job as shard
from tools.train import job as train
from tools.train.config import Config as TrainConfig

QUICK = ("dit_s2_256",)
TINY = ("model.width=24", "model.depth=2", "model.heads=2", "model.input_channels=2", "engine.micro_batch=1")
TINY += (
    "data.group_size=2",
    "data.rank_multiple=2",
    "trainer.steps=2",
    "optimizer.warmup_steps=0",
    "engine.device=cpu",
)
TEXT_WIDTH = 8
VAES: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "block_out_channels": (8,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    "AutoencoderKLWan": {"z_dim": 16, "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16},
}
"""Of the compression and the latent channels of SD-VAE and Wan-VAE."""


def some(names: Any, quick: tuple[str, ...]) -> Any:
    """Return a parameter for each name, those that are slow for the full run alone."""
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.full) for name in names]


def text_of(config: Config, width: int) -> tuple[int, int]:
    """Return tokens and width of the captions of a recipe."""
    return (config.plan.text_tokens, width) if config.model.text_width else (0, 0)


@pytest.mark.parametrize("name", some(DATA, QUICK))
def test_a_dry_run_on_latents_of_its_shape_refuses_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in QUICK:
        monkeypatch.setattr(run_hours, "LONGEST", 0)  # single samples are not timed: minutes on a CPU
    config = planned(name)
    known: Any = {"classes": config.model.num_classes, "text": text_of(config, config.model.text_width)}
    cache = make_recipe_cache(tmp_path, config.plan.shapes, **known)
    fields = [f"source={cache}", f"output={tmp_path / 'run'}", "engine.device=cpu"]
    fields.append(f"processes={config.engine.sequence_parallel}")
    said = train.plan(load(TrainConfig, [ROOT / "configs/train" / f"{name}.yaml"], fields))
    for begins in ("data: 16 samples", "model: ", "memory of a rank: ", "step: ", "checkpoint: "):
        assert any(line.startswith(begins) for line in said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize("name", ["dit_xl2_512", "text_to_video_480"])
def test_a_dry_run_counts_the_activations_that_a_plan_counts(name: str, tmp_path: Path) -> None:
    config = planned(name)
    known: Any = {"classes": config.model.num_classes, "text": text_of(config, config.model.text_width)}
    cache = make_recipe_cache(tmp_path, config.plan.shapes, **known)
    fields = [f"source={cache}", f"output={tmp_path / 'run'}", "engine.sequence_parallel=1"]
    run = load(TrainConfig, [ROOT / "configs/train" / f"{name}.yaml"], fields)
    world, sections = World(0, 1, 0, torch.device("cpu")), (run.data, run.model, run.latents)
    source, _ = train.open_checked(str(cache), "", *sections, run=tmp_path / "run")
    data = train.load_data(source, "", *sections, run.engine, world, run=tmp_path / "run", seed=0)
    parts = (run.model, run.objective, run.data, run.ema, run.optimizer, train.by_use(*data))
    (table,) = train.memory_of(*parts, run.engine).measure(world.device, None)
    policy = run.engine.activation_checkpointing
    sections = config.plan, config.data, config.model, config.engine, config.objective
    work = workload("", "", *sections)
    assert table == activations(run.model, run.engine, work, policy)


@pytest.mark.full
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", DATA)
def test_a_tiny_one_trains(name: str, tmp_path: Path) -> None:
    config = planned(name)
    shapes = [(2, min(frames, 3), 4, 4) for _, frames, _, _ in config.plan.shapes]
    if len({shape[1] for shape in shapes}) < len(shapes):  # pictures in several aspects
        shapes = [(2, 1, 4, 4), (2, 1, 2, 8), (2, 1, 8, 2)]
    text = text_of(config, TEXT_WIDTH)
    cache = make_recipe_cache(tmp_path, shapes, classes=config.model.num_classes, text=text)
    fields = [*TINY, f"model.text_width={text[1]}"]
    if config.engine.sequence_parallel > 1:
        fields += ["engine.sequence_parallel=2", "processes=2"]
    recipe, run = str(ROOT / "configs/train" / f"{name}.yaml"), tmp_path / "run"
    status, said = finish(
        [sys.executable, "-m", "launch", "train", recipe, str(cache), f"output={run}", *fields]
    )
    assert status == 0, said
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("name", some(sorted({*DATA.values()}), ()))
def test_a_dry_run_that_encodes_its_data_refuses_nothing(name: str, tmp_path: Path) -> None:
    """With encoders of its kind and compression, but of few channels, on pictures and clips smaller than its.

    Of each bucket's latents the shape is that which is planned for.
    """
    wanted = planned(next(recipe for recipe in DATA if DATA[recipe] == name))
    is_video = any(frames > 1 for _, frames, _, _ in wanted.plan.shapes)
    kind = "AutoencoderKLWan" if is_video else "AutoencoderKL"
    save_autoencoder(tmp_path / "vae", kind, **VAES[kind])
    fields = [f"source={raw_dataset(tmp_path, is_video=is_video)}", f"autoencoder={tmp_path / 'vae'}"]
    fields += [f"output={tmp_path / 'cache'}", "device=cpu"]
    if wanted.model.text_width:
        text = save_text_encoder(
            tmp_path / "text", "UMT5EncoderModel" if is_video else "T5EncoderModel", limit=None
        )
        fields.append(f"text_encoder={text}")
    said = encode.plan(load(encode.Config, [ROOT / "configs/encode" / f"{name}.yaml"], fields))
    for shape in wanted.plan.shapes:
        latents = "x".join(map(str, (wanted.plan.moments, *shape)))
        assert any(f" -> {latents} latents: " in line for line in said), said
    assert not (tmp_path / "cache").exists()


def raw_dataset(folder: Path, *, is_video: bool) -> str:
    """Make a raw dataset of two captioned samples."""
    (folder / "files").mkdir()
    for number in range(2):
        if is_video:
            content, suffix = clip_bytes(folder), "mp4"
        else:
            content, suffix = image_bytes(picture(24, 32, seed=number)), "png"
        (folder / "files" / f"{number}.{suffix}").write_bytes(content)
        (folder / "files" / f"{number}.txt").write_text("a red disc")
    shard.run(shard.Config(source=str(folder / "files"), output=str(folder / "raw")))
    return str(folder / "raw")
