"""Put the scores of a run together, once its folder holds what sampling needs of latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core.config.loading import to_dict
from core.distributed import ranks
from core.engine.network import Network
from core.errors import below
from core.progress import say
from data.dataset.index import Dataset
from models.denoisers.network import DenoiserConfig
from tools.evaluate.density.cache_rows import Rows
from tools.preview.config import ScoreConfig
from tools.preview.latent_features import LatentFeatures
from tools.preview.real_latents import RealLatents, choose, require_like
from tools.preview.sampled_look import Requested
from tools.preview.scores import Scores, Yardstick
from tools.preview.setup import SEED, taking_turns
from tools.runs.loaded_run import LatentSpace
from tools.runs.objective_kind import maps_to_data
from tools.sample.conditions import require_trained
from tools.sample.generating import Maker
from tools.sample.requests.fitting import settle_samplers
from tools.sample.requests.schedule import Form, Schedule, Size


def make_scores(
    config: ScoreConfig, network: Network, model: DenoiserConfig, run: Path, source: str
) -> list[Scores]:
    """Return the scores of a run, none where they are not asked for (collective: all ranks).

    source: the place of the cache that the run is trained on.
    UserError where the network cannot make what is asked for, or the cache is of another kind.
    """
    if not config.every:
        return []
    space = LatentSpace.read(run)
    with below("evaluate"):
        real = RealLatents(Dataset(config.real or source, "real"), space, SEED)
        require_like(real.cache, space)
        own, others = ranks.on_first_rank(lambda: choose(real.cache, config.samples, config.most_real, SEED))
        features = LatentFeatures.fitting(real.shapes(np.concatenate([own, others]))[0], config.samples)
        requested = _requested(config, real, own, network, run)
    reference, distance = ranks.on_first_rank(lambda: real.measured(features, own, others))
    ruler = {**real.ruler(own, others), **features.ruler}
    stick = Yardstick(features, reference, distance, ruler, _subject(requested.schedule, network))
    maker = Maker(network.engine.module, model, space, network.engine.world.device)
    return [Scores(config.every, run, requested, network, maker, stick)]


def _requested(config: ScoreConfig, real: RealLatents, own: Rows, network: Network, run: Path) -> Requested:
    """Return samples with the shapes, classes and captions of the rows `own`."""
    shapes, form = real.shapes(own)
    schedule, notes = _schedule(config, real, own, shapes, form, run)
    maps = maps_to_data(run)
    for number, each in enumerate(schedule.forms):
        with below("sampler"):
            notes += require_trained(real.space, each.sampler, schedule.given(number), maps_to_data=maps)
    for note in dict.fromkeys(notes):
        say(f"evaluate: {note}")
    requested = Requested(taking_turns(schedule), shapes, None, config.batch)
    if not (schedule.text >= 0).any():
        return requested
    mine = np.unique(np.concatenate([share.samples for share in requested.shares(network)]))
    text = np.full(schedule.count, -1, np.int64)
    text[mine] = np.arange(len(mine))
    captions = real.captions(own, mine.tolist(), network.engine.world.device)
    return replace(requested, schedule=replace(requested.schedule, text=text), prompts=captions)


def _schedule(
    config: ScoreConfig,
    real: RealLatents,
    own: Rows,
    shapes: list[tuple[int, int, int, int]],
    form: np.ndarray,
    run: Path,
) -> tuple[Schedule, list[str]]:
    """Return the samples, sizes of forms in latent rows and columns, and lines on how they are sampled."""
    zeros = np.zeros(len(own), np.int64)
    has_text = real.space.text is not None
    schedule = Schedule(
        forms=tuple(Form(Size(*shape[1:]), 1.0, config.sampler.settings) for shape in shapes),
        texts=(),
        requests=(),
        row=zeros,
        within=zeros,
        label=real.labels(own) if real.space.classes else zeros - 1,
        text=np.arange(len(own)) if has_text else zeros - 1,
        seed=(SEED,) * len(own),
        number=np.arange(len(own), dtype=np.int64),
        form=form.astype(np.int64),
        negative_label=zeros - 1,
        negative_text=zeros - 1,
        toward=zeros.astype(np.float64),
    )
    channels = shapes[0][0]
    return settle_samplers(
        schedule, real.space, run, lambda size: (channels, size.frames, size.height, size.width)
    )


def _subject(schedule: Schedule, network: Network) -> dict[str, Any]:
    """Return how samples are made."""
    samplers = [to_dict(form.sampler) for form in schedule.forms]
    same = all(sampler == samplers[0] for sampler in samplers)
    return {
        "sampler": samplers[0] if same else samplers,
        "seed": SEED,
        "precision": network.engine.config.precision,
    }
