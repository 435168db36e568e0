"""Put the previews of a run together, once its folder holds what sampling needs of latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from core.distributed import ranks
from core.engine.network import Network
from core.errors import below
from core.progress import say
from core.run.folder import AUTOENCODER
from models.autoencoder.interface import AnyAutoencoder
from models.autoencoder.opening import open_autoencoder
from models.denoisers.network import DenoiserConfig
from tools.preview.config import PreviewConfig
from tools.preview.preview_files import PreviewFiles
from tools.preview.previews import Previews
from tools.preview.sampled_look import Requested
from tools.runs.loaded_run import LatentSpace
from tools.runs.objective_kind import maps_to_data
from tools.sample.conditions import require_trained
from tools.sample.config import FilesConfig
from tools.sample.generating import Maker
from tools.sample.given.config import PLAIN
from tools.sample.prompts import Prompts, embed
from tools.sample.requests.asked import SampleSettings, read_asked
from tools.sample.requests.fitting import latent_shape, make_schedule, settle_samplers
from tools.sample.requests.schedule import Schedule, Size

SEED = 0  # of the noise: two runs of any seeds can be compared


def make_previews(
    config: PreviewConfig, network: Network, model: DenoiserConfig, run: Path
) -> list[Previews]:
    """Return the previews of a run, none where they are not asked for (collective: all ranks).

    UserError where the network cannot make what is asked for.
    """
    if not config.every:
        return []
    space, autoencoder = LatentSpace.read(run), open_autoencoder(run / AUTOENCODER)
    with below("preview"):
        requested = _requested(config, space, model, autoencoder, run, network.engine.world.device)
    factor = autoencoder.spatial_compression
    sizes = [
        Size(form.size.frames, height * factor, width * factor)
        for form, (_, _, height, width) in zip(requested.schedule.forms, requested.shapes, strict=True)
    ]
    files = PreviewFiles(run, requested.schedule, sizes, space.classes)
    maker = Maker(network.engine.module, model, space, network.engine.world.device)
    return [Previews(config.every, requested, network, maker, autoencoder, files)]


def _requested(
    config: PreviewConfig,
    space: LatentSpace,
    model: DenoiserConfig,
    autoencoder: AnyAutoencoder,
    run: Path,
    device: torch.device,
) -> Requested:
    settings = _settings(config).at_rate(space.fps)
    shape_of: Callable[[Size], tuple[int, int, int, int]] = partial(latent_shape, space, model, autoencoder)
    schedule = make_schedule(settings, read_asked(settings), space, run, shape_of)
    schedule, notes = settle_samplers(schedule, space, run, shape_of)
    maps = maps_to_data(run)
    for number, form in enumerate(schedule.forms):
        conditions = schedule.given(number), schedule.negative(number)
        with below("sampler"):
            notes += require_trained(space, form.sampler, *conditions, maps_to_data=maps)
    for note in dict.fromkeys(notes):
        say(f"preview: {note}")
    prompts = ranks.on_first_rank(lambda: _embedded(schedule, space, device))
    if prompts is not None:
        prompts = replace(prompts, tokens=prompts.tokens.to(device), lengths=prompts.lengths.to(device))
    shapes = [shape_of(form.size) for form in schedule.forms]
    return Requested(taking_turns(schedule), shapes, prompts, config.batch)


def _embedded(schedule: Schedule, space: LatentSpace, device: torch.device) -> Prompts | None:
    """Embed the texts, where one rank does so for all."""
    found = embed(schedule.texts, space.text, space.text_folder, device)
    return found and replace(found, tokens=found.tokens.cpu(), lengths=found.lengths.cpu())


def taking_turns(schedule: Schedule) -> Schedule:
    """Have conditions evaluated one after the other, so that ranks make equal calls whatever their memory."""
    forms = [
        replace(form, sampler=replace(form.sampler, guide=replace(form.sampler.guide, together=False)))
        for form in schedule.forms
    ]
    return replace(schedule, forms=tuple(forms))


def _settings(config: PreviewConfig) -> SampleSettings:
    """Return the settings of a job `sample` that would make these samples."""
    return SampleSettings(
        seed=SEED,
        count=config.count,
        classes=config.classes,
        prompts=config.prompts,
        prompt_file="",
        negative_class="",
        negative_prompt="",
        requests=config.requests,
        each=1,
        bad_requests=0,
        preset="",
        labels="equal",
        files=FilesConfig(),
        frames=config.frames,
        height=config.height,
        width=config.width,
        fps=config.fps,
        task=PLAIN,
        trajectory=False,
        sampler=config.sampler.settings,
    )
