"""Configuration of the job `sample`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.diffusion.sampling import SamplerConfig
from core.errors import UserError
from core.queue.config import QueueConfig
from core.run.claim import begun_with
from models.autoencoder.tiling_config import TilingConfig
from models.precision import AskedPrecision
from tools.sample.again import settings_of
from tools.sample.files.kinds import ALL_IN_ONE, KINDS, FileKind
from tools.sample.files.naming import require_template
from tools.sample.given.config import TaskConfig
from tools.sample.requests.presets import PRESETS, PresetName

NEGATIVE = ("negative_class", "negative_prompt")


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """Into which files samples are written."""

    kind: FileKind = setting(
        "npz",
        "npz: one file of arrays; a file a sample: png, webp, jpeg for images, h264, hevc, av1 (mp4) and "
        "ffv1 (mkv, lossless) for clips",
    )
    films: Literal["", "h264", "hevc", "av1", "ffv1"] = setting(
        "", "file kind of clips, in a job that also makes images; '' is `kind`"
    )
    films_quality: int | None = setting(
        None, "CRF of these clips; null is the usual value of the kind", low=0
    )
    name: str = setting(
        "{index:06d}",
        "name of a file without its ending, from {index}, {row} of the requests, {k} in that row, {class}, "
        "{prompt}, {name}, {folder}, {seed}, {number} and {part}, which is index // 1000; formats as in "
        "Python: {name:.80}",
        shown="template",
    )
    quality: int | None = setting(
        None,
        "webp, jpeg: 1 to 100, higher is better; h264, hevc, av1: CRF from 0, lower is better; null is "
        "the usual value of the kind",
        low=0,
    )
    latents: bool = setting(
        False,
        "also write the latents of each sample that the autoencoder decodes: `latents` (C, T, H, W) fp32 "
        "in a safetensors file beside the sample's",
    )

    def __post_init__(self) -> None:
        require_template(self.name)
        if self.latents and self.kind == ALL_IN_ONE:
            raise UserError("latents", "true", "false with kind=npz, or a kind that makes a file a sample")
        if self.films and (self.kind == ALL_IN_ONE or KINDS[self.kind].holds != "image"):
            raise UserError("films", self.films, f"'' with kind={self.kind}, which is none of single images")

    def of(self, frames: int) -> tuple[FileKind, int | None]:
        """Return kind and quality of the files of samples of so many frames."""
        return (self.films, self.films_quality) if self.films and frames > 1 else (self.kind, self.quality)


@dataclass(frozen=True, kw_only=True)
class WeakConfig:
    """The weaker network of `sampler.guide.weak`."""

    source: str = setting("", "folder of a training run, or of `export`", shown="path", role="place")
    checkpoint: str = setting("", "name of a checkpoint of the run; '' is the newest when the job begins")
    weights: str = setting(
        "ema", "ema: the main average; raw: those of the step itself; or an average's name"
    )

    def __post_init__(self) -> None:
        for name, usual in (("checkpoint", ""), ("weights", "ema")):
            if not self.source and (value := getattr(self, name)) != usual:
                raise UserError(name, value, f"{usual or repr(usual)} without weak.source, whose it is")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to generate, how, and from which weights."""

    job: ClassVar[str] = "sample"

    source: str = setting(REQUIRED, "folder of a training run, or of `export`", shown="path", role="place")
    output: str = setting(
        REQUIRED, "folder that receives samples, pictures and samples.json", shown="path", role="place"
    )
    seed: int = setting(0, "seed of the samples", low=0)
    overwrite: bool = setting(False, "generate again over finished samples", role="work")
    processes: int = setting(1, "workers on this machine that share the batches", low=1, role="work")
    sequence_parallel: int = setting(
        1,
        "ranks that share the tokens of every sample, for clips too long for one: as many as are started "
        "(processes=, torchrun, srun); 1: each rank is a worker of its own",
        low=1,
        role="work",
    )
    checkpoint: str = setting("", "name of a checkpoint of the run; '' is the newest when the job begins")
    weights: str = setting(
        "ema", "ema: the main average; raw: those of the step itself; or an average's name"
    )
    count: int = setting(100, "samples in all; classes take turns", low=1)
    classes: tuple[str, ...] = setting((), "names (or numbers) of the classes to generate; [] is all of them")
    prompts: tuple[str, ...] = setting(
        (),
        "texts to generate from, in turn; [] is no text; prompts=A prompts=B gives both",
        repeats=True,
    )
    prompt_file: str = setting(
        "", "file with a prompt a line, instead of prompts", shown="path", role="place"
    )
    negative_class: str = setting("", "guidance: class to move away from, in place of none")
    negative_prompt: str = setting("", "guidance: text to move away from, in place of none")
    weak: WeakConfig = setting(WeakConfig(), "the weaker network of sampler.guide.weak")
    classifier: str = setting(
        "",
        "folder of the classifier of noisy latents of sampler.guide.classifier; docs/sampling.md has its "
        "training",
        shown="path",
        role="place",
    )
    text_encoder: str = setting(
        "",
        "folder of the run's text encoder, if it has moved; '' is the one of encode",
        shown="path",
        role="place",
    )
    requests: str = setting(
        "",
        "file with a request a row (.txt .csv .tsv .jsonl .json .yaml), instead of classes, prompts and "
        "count; FILE[N] is row N of it, from 0; docs/sampling.md",
        shown="path",
        role="place",
    )
    again: str = setting(
        "",
        "LIST[N]: make the sample of row N of an earlier job's samples.jsonl again, from 0, by the run, the "
        "checkpoint and the settings of that job",
        shown="path",
        role="place",
    )
    each: int = setting(1, "samples per request that does not state a count", low=1)
    bad_requests: int = setting(0, "largest number of unusable requests to leave out", low=0)
    preset: PresetName = setting(
        "", "file layout that a benchmark's package expects: vbench, vbench2, geneval, or adm (FID)"
    )
    labels: Literal["equal", "random"] = setting(
        "equal", "without requests: take classes in turn, or draw one for each sample"
    )
    files: FilesConfig = setting(FilesConfig(), "file kinds and names of the samples")
    frames: int = setting(1, "frames of a sample; 1 is images", low=1)
    height: int = setting(0, "pixels; 0 is what the run was trained on", unit="pixels", low=0)
    width: int = setting(0, "pixels; 0 is what the run was trained on", unit="pixels", low=0)
    fps: float = setting(
        0.0,
        "playing speed of films; 0 is that of most clips the run has learned from, 12 where it is not known",
        unit="1/s",
        low=0,
    )
    precision: AskedPrecision = setting(
        "auto",
        "precision of the network; tf32: as fp32, products on GPUs rounded to 10 bits; auto: bf16 on "
        "CUDA, else fp32",
    )
    compile: bool | Literal["auto"] = setting(
        "auto",
        "compile the network's blocks, once for each shape of samples; auto: on CUDA, where a C compiler and "
        "Triton are",
        role="work",
    )
    batch: int = setting(100, "samples that a worker generates at once", low=1, role="work")
    queue: QueueConfig = setting(QueueConfig(), "how workers share the batches")
    tiling: TilingConfig = setting(TilingConfig(), "how large samples are cut for decoding")
    sampler: SamplerConfig = setting(SamplerConfig(), "solver, steps and guidance")
    task: TaskConfig = setting(TaskConfig(), "given pictures and clips to continue, complete or change")
    trajectory: bool = setting(
        False,
        "also draw intermediate states of some samples: trajectory.png, a row of states and one of estimates",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to compute", role="work")

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the job whose sample is made `again`, or what follows from the preset and
        from the job that is continued.
        """
        if not (again := given.get("again")):
            preset = PRESETS.get(str(given.get("preset", "")))
            implied: dict[str, Any] = {"precision": preset.precision} if preset is not None else {}
            for name in ("fps", "precision"):  # whose usual values were others in earlier versions
                implied |= begun_with(given, cls, name)
            return implied
        if given.get("requests"):
            raise UserError("requests", given["requests"], "'' with again, which names its row")
        return settings_of(str(again))

    def __post_init__(self) -> None:
        if (self.sampler.guide.weak != 1) != bool(self.weak.source):
            expected = "a folder with sampler.guide.weak other than 1, and '' with 1"
            raise UserError("weak.source", self.weak.source or "''", expected)
        if self.sampler.guide.classifier and not self.classifier:
            raise UserError("classifier", "''", "a folder with sampler.guide.classifier other than 0")
        if self.requests:
            usual = {f.name: f.default for f in fields(self)}
            for name in ("classes", "prompts", "prompt_file", "count", "labels", *NEGATIVE):
                if (value := getattr(self, name)) != usual[name]:
                    raise UserError(name, value, f"nothing beside requests={self.requests}, which say it")
