"""The denoiser's objective on batches of latents, and how a run prepares it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.batch import Batch
from core.diffusion.alignment.aligned import Alignment
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.mixer import Mixer
from core.diffusion.objectives.noised import Model, NoisyBatch
from core.diffusion.paths.config import PathRecord
from core.distributed import ranks
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.config import EngineConfig
from core.losses import Losses
from core.optim.groups import OptimizerConfig
from core.permutations import keyed_hash
from data.latent.normalising import Normaliser, sample_posterior
from data.loading.sources.kinds import LatentSource
from models.denoisers.network import DenoiserConfig
from tools.runs.latent_space import keep_latent_space
from tools.runs.normalisers import LatentsConfig, choose_normaliser, settle_normaliser
from tools.runs.path_record import settle_density, settle_path

if TYPE_CHECKING:  # imports DeepSpeed, which takes seconds; a dry run needs none of it
    from core.engine.engine import Engine


class LatentObjective:
    """The denoiser's loss on a batch of a source: make moments, draw latents, normalise them, then diffuse.

    moments: what makes moments (B, M, C, T, H, W) of a batch's x; None where these are what arrives.
    path, density, alignment: as `Objective` takes them.  diffusion: the objective on clean latents.
    features: what makes a picture encoder's features of a batch; None where these are what arrives.
    stills: likewise of the last pictures of clips as stills.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        normaliser: Normaliser,
        *,
        frame_condition: bool,
        frames_per_level: int = 0,
        moments: Callable[[Tensor], Tensor] | None = None,
        path: PathRecord | None = None,
        density: Sequence[float] | None = None,
        alignment: Alignment | None = None,
        features: Callable[[Batch], Tensor | None] | None = None,
        stills: Callable[[Batch], Tensor | None] | None = None,
    ) -> None:
        known: Any = {"frames_per_level": frames_per_level, "path": path, "density": density}
        known["alignment"] = alignment
        self.diffusion = Objective(config, frame_condition=frame_condition, **known)
        self._normaliser, self._moments, self._features = normaliser, moments, features
        self._stills = stills
        self._mixer: Mixer | None = None

    def mix_by(self, mixer: Mixer) -> None:
        """Take a kernel that draws latents and noises them in one pass."""
        self._mixer = mixer

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """Return the loss of every sample of a micro-batch."""
        noised, features = self.noised(batch, draws), self.features(batch, draws.step_index)
        return self.diffusion.loss_of(model, noised, features, draws.step_index)

    @torch.no_grad()
    def noised(self, batch: Batch, draws: Draws) -> NoisyBatch:
        """Return what the network sees of a micro-batch."""
        moments = batch.x if self._moments is None else self._moments(batch.x)
        shape, still = tuple(moments.shape[2:]), self.still(batch, moments.shape[3])
        if self._mixer is not None:
            normal = self._normaliser.statistics_on(moments.device, shape[1])
            return self.diffusion.mixed(self._mixer, moments, normal, batch.condition, draws, still)
        draws.expect(self.diffusion.purposes)
        if moments.shape[1] > 1:
            draws.together(("posterior", "noise"), shape)
        latents = self._normaliser.apply(sample_posterior(moments, draws))
        return self.diffusion.noised(latents, batch.condition, draws, still)

    def features(self, batch: Batch, step_index: int) -> Tensor | None:
        """Return the features that the batch is aligned with in a step, (B, F, h, w, E)."""
        if not self.diffusion.aligns(step_index):
            return None
        if self._features is None:
            return batch.features
        with torch.no_grad():
            return self._features(batch)

    @torch.no_grad()
    def still(self, batch: Batch, frames: int) -> Tensor | None:
        """Return last pictures of clips of so many latent frames as stills, normalised: (B, C, 1, H, W)."""
        stills = batch.stills if self._stills is None else self._stills(batch)
        if stills is None:
            return None
        clips = stills[:, 0].float().expand(-1, -1, frames, -1, -1)  # normalisation may be one of frames
        return self._normaliser.apply(clips)[:, :, -1:]


class Unaligned:
    """The loss of the prediction alone, by which runs with and without alignment compare: of validation."""

    def __init__(self, whole: LatentObjective) -> None:
        self._whole = whole

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """Return the loss of every sample of a micro-batch."""
        return self._whole.diffusion.prediction_loss(model, self._whole.noised(batch, draws))


def own_engine(
    objective: LatentObjective, engine: EngineConfig, optimizer: OptimizerConfig, world: World, *, seed: int
) -> Engine | None:
    """Make the engine of the objective's own parameters, None where it has none (collective: all ranks).

    They are shared out like the network's, are computed in fp32, and AdamW updates them without decay. Their
    first values follow from the seed alone: measuring attention, which a machine does once, draws too.
    """
    from core.engine.joined import joined
    from core.engine.kinds import make_engine

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(keyed_hash(7, "objective", seed), "big"))
        parameters = objective.diffusion.own_parameters()
    if parameters is None:
        return None
    plain = replace(engine, precision="fp32", matmul="bf16", gradient_dtype="fp32", compile=False)
    own = make_engine(parameters, plain, replace(optimizer, name="adamw", weight_decay=0.0), world)
    objective.diffusion.use(partial(joined, own))
    return own


def prepare_objective(
    source: LatentSource,
    autoencoder: Path,
    objective: ObjectiveConfig,
    latents: LatentsConfig,
    model: DenoiserConfig,
    world: World,
    run: Path,
    initial: Normaliser | None = None,
    alignment: Alignment | None = None,
) -> LatentObjective:
    """Make the loss, once the run folder holds what sampling needs of latents (collective: all ranks).

    run: the run's folder.  initial: the normaliser of the run that this one begins from.  alignment: of a
    block with the source's features.
    """
    source.to(world.device)
    latents = settle_normaliser(latents, run, initial)
    normaliser = choose_normaliser(source, latents, run, world, initial)
    space, path = (run, source, autoencoder, objective, normaliser, latents), settle_path(objective, run)
    density = settle_density(objective, run)
    ranks.on_first_rank(
        lambda: keep_latent_space(*space, text=model.text_width > 0, path=path, density=density)
    )
    known: Any = {"frame_condition": model.frame_condition, "moments": source.moments, "path": path}
    known |= {"frames_per_level": model.frames_per_level, "density": density}
    known |= {"alignment": alignment, "features": source.features, "stills": source.stills}
    return LatentObjective(objective, normaliser, **known)
