"""Configuration of the job `train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from core.averages.ema import EmaConfig
from core.config.building import merge
from core.config.settings import REQUIRED, setting
from core.diffusion.objectives.config import ObjectiveConfig, require_levels
from core.engine.config import EngineConfig
from core.errors import UserError, below
from core.memory.choices import kept_defaults
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.run.claim import begun_with
from core.train.config import TrainerConfig, require_effect
from core.train.validation import ValidationConfig
from data.loading.sources.config import EncodingConfig
from data.order.caption_choice import CaptionConfig
from data.order.steps import LoaderConfig
from models.attention.by_heads import by_ring
from models.attention.by_ring import RING_BACKENDS
from models.autoencoder.tiling_config import TilingConfig
from models.denoisers.kinds import DEFAULT, KINDS
from models.denoisers.network import DenoiserConfig
from models.precision import AskedPrecision
from tools.preview.config import PreviewConfig, ScoreConfig
from tools.runs.normalisers import LatentsConfig
from tools.train.combinations import require_alignment, require_few_steps, require_given_last

Differing = Literal["autoencoder", "path", "prediction", "time_input", "text_encoder"]


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(EncodingConfig):
    """Settings that `encode` would be given, for data.encode=online."""

    precision: AskedPrecision = setting(
        "auto",
        "precision of the encoders; tf32: as fp32, products on GPUs rounded to 10 bits; auto: fp32 where "
        "engine.precision is, else as in encode",
    )
    tiling: TilingConfig = setting(TilingConfig(), "how large inputs are cut for the autoencoder")
    text_encoder: str = setting(
        "", "folder of a public text encoder for the captions; '' takes no text", shown="path", role="place"
    )
    text_tokens: int = setting(
        0,
        "largest number of tokens of a caption, to which all are padded; 0 is the tokenizer's limit",
        low=0,
        high=65535,
    )


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """Settings for data.features=online: those that `encode` would be given, and where pictures are."""

    encoder: str = setting(
        "", "folder of a public picture encoder (DINOv2, CLIP)", shown="path", role="place"
    )
    patch: int = setting(
        16, "rows and columns of pixels for each of the encoder's patches", unit="pixels", low=1
    )
    source: str = setting(
        "",
        "with data.encode=cached: the raw dataset that the cache was encoded from; '' is where that was",
        shown="path or URL",
        role="place",
    )
    threads: int = setting(2, "with data.encode=cached: pictures decoded in parallel", low=1, role="work")


@dataclass(frozen=True, kw_only=True)
class DataConfig(LoaderConfig, CaptionConfig):
    """What makes up a step, and where its latents come from."""

    encode: Literal["cached", "online"] = setting(
        "cached",
        "cached: source is a latent cache; online: source is a raw dataset that is encoded in every step",
    )
    online: OnlineConfig = setting(OnlineConfig(), "settings of encode=online")
    features: Literal["none", "cached", "online"] = setting(
        "none",
        "features of a picture encoder with which a block is aligned (objective.alignment). cached: those"
        " stored by `encode picture_encoder=...`; online: computed in every step, from the pictures that "
        "data.encode=online decodes, or that are read by their ids beside the cache",
    )
    pictures: PicturesConfig = setting(PicturesConfig(), "settings of features=online")
    stills: bool = setting(
        False,
        "encode a given last frame (objective.given.last, ends) as a still picture, as `sample "
        "task.given_last=PICTURE` does: taken from a cache of `encode stills=true`, or computed in every "
        "step; false takes the clip's own latent, which encodes motion",
    )
    also: tuple[str, ...] = setting(
        (),
        "more latent caches of the same encoder to train on, beside source",
        shown="[path or URL, ...]",
        role="place",
    )
    mix: tuple[float, ...] = setting(
        (),
        "shares of groups from source and each of data.also, in any scale; [] weights all samples equally",
    )

    def __post_init__(self) -> None:
        LoaderConfig.__post_init__(self)
        CaptionConfig.__post_init__(self)
        if self.also and self.encode == "online":
            expected = "[] with data.encode=online, since only latent caches are mixed (`encode` makes them)"
            raise UserError("also", list(self.also), expected)
        if self.features == "cached" and self.encode == "online":
            raise UserError("features", self.features, "none or online with data.encode=online")
        if self.features == "online" and self.also:
            raise UserError("features", self.features, "none or cached with data.also")
        if self.features == "online" and not self.pictures.encoder:
            raise UserError("pictures.encoder", "''", "a folder with data.features=online")
        if self.mix and (len(self.mix) != 1 + len(self.also) or not all(w > 0 for w in self.mix)):
            expected = f"{1 + len(self.also)} numbers above 0, of source and each of data.also; or []"
            raise UserError("mix", list(self.mix), expected)
        if self.mix and self.video_share is not None:
            raise UserError("video_share", self.video_share, "null with data.mix")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run of a denoiser."""

    job: ClassVar[str] = "train"

    source: str = setting(
        REQUIRED,
        "latent cache, as `encode` writes it; a raw dataset where data.encode=online",
        shown="path or URL",
        role="place",
    )
    output: str = setting(
        REQUIRED,
        "run folder: config, metrics, checkpoints and what sampling needs",
        shown="path",
        role="place",
    )
    seed: int = setting(0, "seed of the weights, the order of samples and every draw", low=0, high=2**63 - 1)
    overwrite: bool = setting(
        False,
        "start anew, removing the earlier run in the output; a job that is requeued or restarted continues",
        role="work",
    )
    processes: int = setting(1, "ranks on this machine", low=1, role="work")
    autoencoder: str = setting(
        "",
        "folder of the autoencoder, which must be the one that made the cache; '' is the one recorded by "
        "encode",
        shown="path",
        role="place",
    )
    initial: str = setting(
        "",
        "start a new run from the weights of a run, a checkpoint or an export: its main average, or what "
        "follows @ (raw: the weights of the step itself)",
        shown="path[@AVERAGE]",
        role="place",
    )
    initial_accept: tuple[Differing, ...] = setting(
        (),
        "names of differences from the other run to accept, although its weights depend on them",
        role="work",
    )
    model: DenoiserConfig = setting(DEFAULT, "the network", kinds=KINDS)
    objective: ObjectiveConfig = setting(ObjectiveConfig(), "training objective")
    data: DataConfig = setting(DataConfig(), "composition of a step, and whether latents are cached")
    latents: LatentsConfig = setting(LatentsConfig(), "normalisation of the latents")
    optimizer: OptimizerConfig = setting(OptimizerConfig(), "how weights are updated")
    engine: EngineConfig = setting(EngineConfig(), "how ranks share the work")
    ema: EmaConfig = setting(EmaConfig(), "averages of the weights; sampling uses the first")
    trainer: TrainerConfig = setting(TrainerConfig(), "length of the run, and its checkpoints")
    metrics: MetricsConfig = setting(MetricsConfig(), "what is reported (docs/metrics.md)")
    validation: ValidationConfig = setting(ValidationConfig(), "loss on fixed samples, at intervals")
    preview: PreviewConfig = setting(PreviewConfig(), "samples of the averages, at intervals")
    evaluate: ScoreConfig = setting(ScoreConfig(), "scores of samples of the averages, at intervals")
    validation_source: str = setting(
        "",
        "samples to validate on, like `source`; '' takes training samples",
        shown="path or URL",
        role="watch",
    )

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return defaults that follow from other fields.

        Latents stay normalised as weights know them, and a run goes on with the engine and the order that it
        began with.
        """
        kept = [begun_with(given, cls, f"data.{name}") for name in ("online.precision", "shuffle_piece")]
        of_weights = {"latents": {"normalise": "initial"}} if given.get("initial") else {}
        return merge([{"engine": kept_defaults(given, cls.job)}, *kept, of_weights])

    def __post_init__(self) -> None:
        if not self.initial and self.initial_accept:
            raise UserError("initial_accept", list(self.initial_accept), "[] without initial=...")
        if not self.initial and self.latents.normalise == "initial":
            raise UserError("latents.normalise", "initial", "measured or encoder without initial=...")
        require_few_steps(self.objective, self.model, self.engine)
        require_alignment(self.objective, self.model, self.data.features)
        require_given_last(self.objective, self.model, self.data.stills)
        if self.objective.kind == "distillation":
            self._require_teacher()
        require_effect(self.trainer, self.optimizer, self.ema)
        self._require_looks()
        with below("objective"):
            require_levels(self.objective, self.model.frames_per_level)
        if self.objective.learned_sigma and not self.model.learned_sigma:
            raise UserError("model.learned_sigma", False, "true, since objective.learned_sigma=true")
        ranks = self.engine.sequence_parallel
        if (heads := self.model.attention_heads(ranks)) is None:
            if ranks > 1:
                expected = f"1, since model.kind={self.model.kind} cannot share the tokens of an input"
                raise UserError("engine.sequence_parallel", ranks, expected)
        elif by_ring(heads.count, ranks) and heads.backend not in ("auto", *RING_BACKENDS):
            reason = f"{heads.count} heads cannot be shared evenly by engine.sequence_parallel={ranks} ranks"
            expected = f"one of auto, {', '.join(RING_BACKENDS)}, since {reason}, so keys go around a ring"
            raise UserError("model.attention", heads.backend, expected)

    def _require_looks(self) -> None:
        """Refuse looks at the weights that would never come, or have nothing to compare with."""
        steps = self.trainer.steps
        for name in ("validation", "preview", "evaluate"):
            if (every := getattr(self, name).every) > steps:
                raise UserError(f"{name}.every", every, f"at most trainer.steps={steps}, or 0 for never")
        if self.evaluate.every and not self.evaluate.real and self.data.encode == "online":
            expected = "a latent cache of the same encoder, with data.encode=online"
            raise UserError("evaluate.real", "''", expected)

    def _require_teacher(self) -> None:
        """Refuse distillation of another network than the one that the run begins from."""
        if not self.initial:
            expected = "the run that is distilled, with objective.kind=distillation"
            raise UserError("initial", "''", expected)
        if self.initial_accept:
            expected = "[] with objective.kind=distillation, whose network means what that of initial means"
            raise UserError("initial_accept", list(self.initial_accept), expected)
        if self.latents.normalise != "initial":
            expected = "initial with objective.kind=distillation"
            raise UserError("latents.normalise", self.latents.normalise, expected)
