"""Configuration of the job `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.queue.config import QueueConfig

CLIP_EXTRACTORS = ("i3d",)  # that see clips, not images


@dataclass(frozen=True, kw_only=True)
class DensityConfig:
    """Settings of measure=likelihood and measure=bound."""

    checkpoint: str = setting("", "name of a checkpoint of the run; '' is the newest")
    weights: str = setting(
        "ema", "ema: the main average; raw: those of the step itself; or an average's name"
    )
    count: int = setting(0, "samples at random; 0 is all", low=0)
    batch: int = setting(16, "samples at once", low=1, role="work")
    posterior: Literal["draw", "mean"] = setting(
        "draw", "draw latents from the encoder's posterior, as in training, or use its mean"
    )
    tolerance: float = setting(1e-5, "likelihood: largest estimated error per step", low=1e-12, high=1)
    probes: int = setting(
        1, "likelihood with more than 64 numbers: number of random sign vectors for the trace estimate", low=1
    )
    bound_steps: int = setting(
        100, "bound: steps of the sampler whose bound is computed, at most those of a chain", low=2
    )


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Settings of measure=reconstruction."""

    size: tuple[int, int] = setting((256, 256), "height and width to which images are resized", unit="pixels")
    lpips_network: str = setting(
        "",
        "file of AlexNet or VGG-16 in torchvision's layout, for LPIPS; '' leaves LPIPS out",
        shown="path",
        role="place",
    )
    lpips_weights: str = setting(
        "", "file of LPIPS's own weights, alex.pth or vgg.pth", shown="path", role="place"
    )

    def files(self) -> dict[str, str]:
        """Return the files of LPIPS by field, "" for none."""
        return {"lpips_network": self.lpips_network, "lpips_weights": self.lpips_weights}

    def __post_init__(self) -> None:
        if bool(self.lpips_network) != bool(self.lpips_weights):
            name = "lpips_weights" if self.lpips_network else "lpips_network"
            raise UserError(name, "''", "a file: LPIPS needs both, lpips_network and lpips_weights")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to score, and against what."""

    job: ClassVar[str] = "evaluate"

    source: str = setting(
        REQUIRED,
        "folder of `sample`, or a folder of such folders (images, clips); of an autoencoder with "
        "measure=reconstruction, of a run with likelihood and bound",
        shown="path",
        role="place",
    )
    real: str = setting(
        "",
        "raw dataset to compare samples with, or to reconstruct; with measure=likelihood or bound a "
        "latent cache",
        shown="path or URL",
        role="place",
    )
    measure: Literal["samples", "reconstruction", "likelihood", "bound"] = setting(
        "samples",
        "samples: compare them with real data; reconstruction: what an autoencoder loses of real images "
        "(PSNR, SSIM, LPIPS, and rFID with extractor=inception); likelihood, bound: -log p of the latents of "
        "a cache under a run, by its probability flow or by the variational bound",
    )
    reconstruction: ReconstructionConfig = setting(
        ReconstructionConfig(), "settings of measure=reconstruction"
    )
    density: DensityConfig = setting(DensityConfig(), "settings of measure=likelihood and bound")
    extractor: Literal["classifier", "inception", "dinov2", "clip", "i3d"] = setting(
        "classifier",
        "feature extractor: a classifier trained on the real data, or a published network: FID's "
        "Inception, DINOv2 or CLIP for images, FVD's I3D for clips",
    )
    extractor_weights: str = setting(
        "",
        "weights of a published network. inception: pt_inception-2015-12-05-6726825d.pth of "
        "torch-fidelity, or the same as .safetensors; dinov2, clip: a folder in transformers' layout; "
        "i3d: i3d_torchscript.pt",
        shown="path",
        role="place",
    )
    reference: str = setting(
        "",
        "inception, dinov2, i3d: npz of published statistics (mu, sigma, and mu_s, sigma_s for sFID), "
        "with or without pictures (arr_0), in place of `real`",
        shown="path",
        role="place",
    )
    imported: str = setting(
        "",
        "result of another package to record instead of measuring: VBench's *_eval_results.json, "
        "GenEval's results.jsonl, DPG's dpg-bench_*_results.txt, or JSON with numbers",
        shown="path",
        role="place",
    )
    package: str = setting("", "imported: name and version of that package, recorded with the result")
    batch: int = setting(64, "published networks: images or clips at once", low=1, role="work")
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "published networks, likelihood, bound: where to compute", role="work"
    )
    heldout: str = setting(
        "",
        "raw dataset of unseen data; '' holds out a fifth of `real` from the classifier",
        shown="path or URL",
        role="place",
    )
    autoencoder: str = setting(
        "", "folder of an autoencoder, for its reconstruction error; '' is none", shown="path", role="place"
    )
    output: str = setting(
        REQUIRED, "folder that receives scores.json and real_images.png", shown="path", role="place"
    )
    seed: int = setting(0, "seed of the classifier and of the subsets", low=0, high=2**63 - 1)
    overwrite: bool = setting(False, "score again over finished scores", role="work")
    processes: int = setting(1, "workers on this machine, which share the samples", low=1, role="work")
    threads: int = setting(1, "CPU threads of each process; a classifier takes one", low=1)
    queue: QueueConfig = setting(QueueConfig(), "how workers share the samples")
    count: int = setting(500, "samples on each side of the Fréchet distance, if there are as many", low=10)
    draws: int = setting(5, "number of random subsets over which a score is averaged", low=1)
    steps: int = setting(500, "training steps of the classifier", low=1)
    most_real: int = setting(
        10_000, "largest number of real images and clips to read, chosen at random", low=50
    )
    fps: float = setting(0.0, "frame rate at which real clips are read; 0 is their own", unit="1/s", low=0)
    stride: int = setting(1, "take every stride-th frame of real clips", unit="frames", low=1)

    @property
    def measured_alone(self) -> str:
        """Say why one process measures alone; "" where several can share the work."""
        return "since a result is imported" if self.imported else ""

    def __post_init__(self) -> None:
        if self.processes > 1 and (alone := self.measured_alone):
            raise UserError("processes", self.processes, f"1, {alone}")
        if bool(self.imported) != bool(self.package):
            missing = "package" if self.imported else "imported"
            expected = "what measured it, such as 'vbench 0.1.5'" if self.imported else "a file, with package"
            raise UserError(missing, "''", expected)
        if self.imported:
            self._check_import()
            return
        if self.measure == "reconstruction":
            self._check_reconstruction()
        if self.extractor == "classifier":
            for name in ("extractor_weights", "reference"):
                if value := getattr(self, name):
                    raise UserError(name, value, "'' with extractor=classifier; published networks take it")
            return
        if not self.extractor_weights:
            raise UserError(
                "extractor_weights", "''", f"the published weights, with extractor={self.extractor}"
            )
        if self.real and self.reference:
            raise UserError("reference", self.reference, f"'' beside real={self.real}: one of both")
        if self.reference and self.extractor == "clip":
            raise UserError("reference", self.reference, "'' with extractor=clip, which needs real pictures")
        for name in ("heldout", "autoencoder"):
            if value := getattr(self, name):
                raise UserError(name, value, f"'' with extractor={self.extractor}")

    def _check_import(self) -> None:
        usual = {"measure": "samples", "extractor": "classifier"}
        for name in (
            "measure",
            "extractor",
            "real",
            "reference",
            "heldout",
            "autoencoder",
            "extractor_weights",
        ):
            if (value := getattr(self, name)) != usual.get(name, ""):
                raise UserError(name, value, f"nothing beside imported={self.imported}, which was measured")

    def _check_reconstruction(self) -> None:
        if self.extractor not in ("classifier", "inception"):
            raise UserError("extractor", self.extractor, "inception for rFID, or the default for none")
        for name in ("reference", "heldout", "autoencoder"):
            if value := getattr(self, name):
                raise UserError(name, value, "'' with measure=reconstruction")
