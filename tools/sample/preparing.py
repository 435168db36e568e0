"""Read everything that samples are made from, and check it against the config and the job's record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core.errors import below
from core.progress import say
from models.denoisers.skipping import WithoutBlocks
from models.precision import compute_repeatably
from tools.runs.loaded_run import open_run
from tools.sample.batches import Job, shape_of
from tools.sample.given.known import Keeper
from tools.sample.guiding import Guiding, open_weak
from tools.sample.networks.compiling import compile_networks, settled
from tools.sample.networks.shared_tokens import Leader, require_shareable
from tools.sample.noisy_classifiers.opening import open_classifier
from tools.sample.prompts import embed
from tools.sample.record import describing, unchanged
from tools.sample.requests.asked import Asked, SampleSettings
from tools.sample.requests.fitting import make_schedule, settle_samplers


def prepare(
    settings: SampleSettings,
    making: describing.Making,
    asked: Asked,
    device: torch.device,
    record: dict[str, Any] | None,
    leader: Leader | None = None,
) -> Job:
    """Read what samples are made from; UserError, with nothing written, where it is not as asked for, or not
    what the job was begun with.

    record: what that is, None for a job that begins.  leader: of ranks that share the tokens of samples.
    """
    precision = describing.precision_of(making, record, device.type)
    making, dtype = replace(making, precision=precision), compute_repeatably(precision)
    checkpoint, source = describing.checkpoint_of(making, record), Path(making.source)
    sequence = leader.sequence if leader is not None else None
    trained = open_run(source, checkpoint, making.weights, device, dtype, sequence)
    with below("tiling"):
        trained.autoencoder.set_tiling(making.tiling)
    settings = settings.at_rate(trained.space.fps)
    keeper = Keeper.of(trained, source)
    schedule = make_schedule(settings, asked, trained.space, source, shape_of(trained), keeper)
    schedule, notes = settle_samplers(schedule, trained.space, source, shape_of(trained))
    if not asked.requests:
        settings = replace(settings, sampler=schedule.forms[0].sampler)
    folder = making.text_encoder or trained.space.text_folder
    for form in schedule.forms:
        with below("sampler.guide"):
            WithoutBlocks(trained.model, form.sampler.guide.skip_blocks)
    prompts = embed(schedule.texts, trained.space.text, folder, device)
    classifier = open_classifier(making.classifier, trained.space, device)
    weak = open_weak(making.weak, trained, record, device, dtype, sequence)
    guiding = Guiding(trained, weak, classifier)
    compiles = settled(making.compile, device.type, shares_tokens=leader is not None)
    if compiles:
        networks = [run.model for run in (trained, weak) if run is not None]
        compile_networks(networks, len(schedule.forms))
    job = Job(settings, making, asked, trained, schedule, guiding, prompts, compiles)
    unchanged.require_same(Path(making.output), record or job.made_from, job.made_from)
    job.require_nameable()
    job.require_encodable()
    if leader is not None:
        require_shareable(trained.network, leader.sequence.size)
        leader.open((making.source, trained), (making.weak.source, weak), precision=precision)
    for line in (*notes, *(f"warning: {each}" for each in job.warnings())):
        say(line)
    return job
