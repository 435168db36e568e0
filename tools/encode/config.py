"""Configuration of the job `encode`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.queue.config import QueueConfig
from core.run.claim import begun_with
from data.media.formats import DEFAULT_LIMITS, MediaLimits
from data.order.buckets import BucketConfig
from models.autoencoder.tiling_config import TilingConfig
from models.precision import AskedPrecision


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to encode, with which encoders, and how."""

    job: ClassVar[str] = "encode"

    source: str = setting(REQUIRED, "raw dataset, as `shard` makes it", shown="path or URL", role="place")
    autoencoder: Path = setting(
        REQUIRED,
        "folder of the autoencoder: one of `train-autoencoder`, or a public one (diffusers)",
        role="place",
    )
    text_encoder: str = setting(
        "",
        "folder of a public text encoder (CLIP, T5, UMT5) for the captions; '' stores no text",
        shown="path",
        role="place",
    )
    text_tokens: int = setting(
        0, "most tokens of a caption; 0 is the limit of the tokenizer", low=0, high=65535
    )
    picture_encoder: str = setting(
        "",
        "folder of a public picture encoder (DINOv2, CLIP) whose features of every picture are stored for"
        " training with data.features=cached; they take many times the bytes of latents; '' stores none",
        shown="path",
        role="place",
    )
    picture_patch: int = setting(
        16, "picture_encoder: rows and columns of pixels for each of its patches", unit="pixels", low=1
    )
    output: Path = setting(REQUIRED, "folder that receives the cache", role="place")
    action: Literal["encode", "status", "verify", "repair"] = setting(
        "encode",
        "encode; status: show which worker encodes which shard, and how fast; verify: check the hash of "
        "every file; repair: encode what is damaged or failed again",
        role="work",
    )
    seed: int = setting(0, "not used: encoding draws nothing", low=0, role="work")
    overwrite: bool = setting(False, "encode again over a finished output", role="work")
    processes: int = setting(
        1, "workers on this machine; each takes a GPU where there are some", low=1, role="work"
    )
    queue: QueueConfig = setting(QueueConfig(), "how workers share the shards")
    store: Literal["moments", "mean"] = setting(
        "moments", "moments: training draws fresh latents every epoch; mean: half the bytes"
    )
    dtype: Literal["float16", "float32"] = setting(
        "float16", "number format of stored latents; float32 is exact, and twice the bytes"
    )
    flip: bool = setting(False, "also store samples mirrored horizontally; training draws one of the two")
    stills: bool = setting(
        False,
        "also store the last picture of every clip as the latent of a still, for training with "
        "data.stills; encodes each clip twice",
    )
    buckets: BucketConfig = setting(
        BucketConfig(), "shapes to which samples are scaled and cropped, and how clips are taken"
    )
    batch: int = setting(8, "samples encoded at once", unit="samples", low=1)
    tiling: TilingConfig = setting(TilingConfig(), "how large inputs are cut for the autoencoder")
    precision: AskedPrecision = setting(
        "auto",
        "precision of the encoders; tf32: as fp32, products on GPUs rounded to 10 bits; auto: tf32 on CUDA, "
        "else fp32",
    )
    threads: int = setting(1, "CPU threads for encoding in each process", low=1)
    decode_threads: int = setting(
        2, "threads that decode samples ahead of the encoder in each process", low=1, role="work"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where the encoder runs")
    limits: MediaLimits = setting(DEFAULT_LIMITS, "limits above which a file is refused as too large")
    quarantine_budget: float = setting(
        0.1,
        "number of unusable samples above which the job fails: a fraction if below 1, else a count",
        low=0,
        role="work",
    )
    require_space: bool = setting(True, "refuse to start if the disk is clearly too small", role="work")

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of a command that continues: the precision that its output was begun with."""
        return begun_with(given, cls, "precision")

    def __post_init__(self) -> None:
        if self.overwrite and self.action == "repair":
            expected = "false with action=repair, which keeps all that is whole"
            raise UserError("overwrite", "true", expected)
