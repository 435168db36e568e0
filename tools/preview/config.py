"""Configuration of previews and scores while training: the sections `preview` and `evaluate` of `train`."""

from __future__ import annotations

from dataclasses import dataclass

from core.config.settings import setting
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PreviewSamplerConfig:
    """How previews are sampled; all else is as `sample` does it by default."""

    solver: SolverName = setting("euler", "how to step from noise to data", role="watch")
    steps: int = setting(50, "number of steps", low=1, role="watch")
    guidance: float = setting(1.0, "classifier-free guidance scale; 1 is off", low=0, role="watch")

    def __post_init__(self) -> None:
        if KINDS[self.solver].is_adaptive:
            expected = "one of fixed steps, since all ranks take equally many"
            raise UserError("solver", self.solver, expected)

    @property
    def settings(self) -> SamplerConfig:
        return SamplerConfig(solver=self.solver, steps=self.steps, guidance=self.guidance)


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """Which samples a run makes of its averages now and then: the same requests from the same noise."""

    every: int = setting(0, "steps between previews, 0 = none", unit="steps", low=0, role="watch")
    count: int = setting(16, "samples; classes and prompts take turns", low=1, role="watch")
    classes: tuple[str, ...] = setting((), "names (or numbers) of classes; [] is all", role="watch")
    prompts: tuple[str, ...] = setting((), "texts to generate from; [] is no text", role="watch")
    requests: str = setting(
        "",
        "file with a request a row, as `sample` takes it, instead of count, classes and prompts",
        shown="path",
        role="watch",
    )
    frames: int = setting(1, "frames of a sample; 1 is images", low=1, role="watch")
    height: int = setting(0, "0 is what the run is trained on", unit="pixels", low=0, role="watch")
    width: int = setting(0, "0 is what the run is trained on", unit="pixels", low=0, role="watch")
    fps: float = setting(
        0.0, "playing speed of films; 0 is that of most clips, else 12", unit="1/s", low=0, role="watch"
    )
    batch: int = setting(8, "samples that a rank generates at once", low=1, role="watch")
    sampler: PreviewSamplerConfig = setting(PreviewSamplerConfig(), "solver, steps and guidance")

    def __post_init__(self) -> None:
        if self.requests:
            for name in ("classes", "prompts"):
                if getattr(self, name):
                    expected = f"[] beside requests={self.requests}, which say it"
                    raise UserError(name, list(getattr(self, name)), expected)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How far samples of the averages are from real latents, now and then: the same samples every time."""

    every: int = setting(0, "steps between evaluations, 0 = none", unit="steps", low=0, role="watch")
    samples: int = setting(
        256,
        "samples of each average, with the classes and captions of so many real ones",
        low=2,
        role="watch",
    )
    real: str = setting(
        "",
        "latent cache of the same encoder to compare samples with; '' is `source`",
        shown="path or URL",
        role="watch",
    )
    most_real: int = setting(4096, "largest number of real samples to compare with", low=2, role="watch")
    batch: int = setting(8, "samples that a rank generates at once", low=1, role="watch")
    sampler: PreviewSamplerConfig = setting(PreviewSamplerConfig(), "solver, steps and guidance")
