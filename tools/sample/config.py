"""Configuration of the job `sample`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.diffusion.sampling import SamplerConfig
from core.queue.work_queue import QueueConfig
from models.autoencoder.tiling_config import TilingConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to generate, how, and from which weights."""

    job: ClassVar[str] = "sample"

    source: str = setting(REQUIRED, "folder of a training run, or of `export`", shown="path", role="place")
    output: str = setting(
        REQUIRED, "folder that receives samples.npz, pictures and samples.json", shown="path", role="place"
    )
    seed: int = setting(0, "seed of the samples", low=0)
    overwrite: bool = setting(False, "generate again over finished samples", role="work")
    processes: int = setting(1, "workers on this machine that share the batches", low=1, role="work")
    checkpoint: str = setting("", "name of a checkpoint of the run; '' is the newest when the job begins")
    weights: Literal["ema", "raw"] = setting("ema", "averaged weights, or those of the last step")
    count: int = setting(100, "samples in all; classes take turns", low=1)
    classes: tuple[str, ...] = setting((), "names (or numbers) of the classes to generate; [] is all of them")
    prompts: tuple[str, ...] = setting((), "texts to generate from; samples take turns; [] is no text")
    prompt_file: str = setting(
        "", "file with a prompt a line, instead of prompts", shown="path", role="place"
    )
    text_encoder: str = setting(
        "",
        "folder of the run's text encoder, if it has moved; '' is the one of encode",
        shown="path",
        role="place",
    )
    frames: int = setting(1, "frames of a sample; 1 is images", low=1)
    height: int = setting(0, "pixels; 0 is what the run was trained on", unit="pixels", low=0)
    width: int = setting(0, "pixels; 0 is what the run was trained on", unit="pixels", low=0)
    fps: float = setting(12.0, "playing speed of clips.mp4", unit="1/s", low=0.1)
    batch: int = setting(100, "samples generated at once, which one worker takes", low=1, role="work")
    queue: QueueConfig = setting(QueueConfig(), "how workers share the batches")
    tiling: TilingConfig = setting(TilingConfig(), "how large samples are cut when they are decoded")
    sampler: SamplerConfig = setting(SamplerConfig(), "solver, steps and guidance")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to compute", role="work")
