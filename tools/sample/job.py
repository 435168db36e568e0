"""Generate images or clips from a training run.

Sample number n is a function of (weights, sampler, seed, n), to rounding also where the batch differs. Any
number of workers share the batches of one output: processes, the same command typed again here or on another
node, or the tasks of an array. They may join, leave or be killed; the last one puts the samples together.
Until then batches are kept in `parts/`, and all workers use the weights, prompts, decoder and sampler that
the first of them recorded in `made_from.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config.sections import section
from core.errors import below
from core.progress import counted
from core.run.folder import SAMPLES
from tools.runs.samples import Samples, read_made_from, samples_made
from tools.sample.config import Config

if TYPE_CHECKING:
    from core.diffusion.sampling import SamplerConfig
    from tools.sample.given.config import TaskConfig
    from tools.sample.networks.shared_tokens import Leader
    from tools.sample.requests.asked import Asked
    from tools.sample.requests.schedule import Schedule


def plan(config: Config) -> list[str]:
    """Describe what `run` would generate."""
    from core.checkpoint.weights import choose, require_held
    from core.diffusion.amplification import amplifications
    from core.diffusion.paths.kinds import make_path
    from core.diffusion.sampling import time_grid
    from tools.runs.loaded_run import LatentSpace
    from tools.runs.objective_kind import maps_to_data
    from tools.sample.conditions import as_trained, require_trained, untrained_frames
    from tools.sample.guiding import look_at_others
    from tools.sample.noisy_classifiers.opening import look as look_at_classifier
    from tools.sample.requests.asked import SampleSettings, read_asked, set_by_preset
    from tools.sample.requests.fitting import doubts, make_schedule

    settings, source = section(SampleSettings, config), Path(config.source)
    settings = replace(settings, **set_by_preset(settings))
    space = LatentSpace.read(source)
    checkpoint = choose(source, config.checkpoint)
    require_held(checkpoint, config.weights)
    schedule = make_schedule(settings, read_asked(settings), space, source)
    look_at_classifier(config.classifier, space)
    look_at_others(config.weak, [form.sampler.guide for form in schedule.forms], space, source)
    lines, path = list[str](), make_path(space.path)
    for number, form in enumerate(schedule.forms):
        with below("sampler"):
            sampler, notes = as_trained(form.sampler, space, source, space.shapes[0])
            conditions = schedule.given(number), schedule.negative(number)
            warnings = require_trained(space, sampler, *conditions, maps_to_data=maps_to_data(source))
            times = time_grid(sampler, path, space.prediction)
            largest = max(amplifications(space.prediction, path, times))
            warnings += untrained_frames(source, form.size.frames, sampler.frame_lag)
        lines += form_lines(schedule, number, sampler, config.batch, largest)
        notes += [f"warning: {warning}" for warning in warnings]
        lines += [line for line in notes if line not in lines]
    lines += [f"warning: {warning}" for warning in doubts(schedule, config.classifier)]
    weights = f"the {config.weights} weights of {checkpoint}"
    return [f"{counted(schedule.count, 'sample')} from {weights}, into {config.output}", *lines]


def form_lines(
    schedule: Schedule, number: int, sampler: SamplerConfig, batch: int, largest: float
) -> list[str]:
    """Describe the samples of a form.  sampler: as settled.  largest: amplification of its steps."""
    size, count = schedule.forms[number].size, int((schedule.form == number).sum())
    what = (
        counted(count, "image") if size.frames == 1 else f"{counted(count, 'clip')} of {size.frames} frames"
    )
    pixels = f" at {size.height or 'the usual'} x {size.width or 'the usual'} pixels" * bool(
        size.height or size.width
    )
    guidance = f", guidance {sampler.guidance:g}" if sampler.guidance != 1 else ""
    guide = sampler.guide
    guidance += f", guidance {guide.weak:g} away from the weaker network" if guide.weak != 1 else ""
    blocks = ", ".join(map(str, guide.skip_blocks))
    guidance += f", guidance {guide.skip:g} away from it without blocks {blocks}" if blocks else ""
    guidance += f", classifier guidance {guide.classifier:g}" if guide.classifier else ""
    return [
        f"{what}{pixels}: {sampler.steps} steps of {sampler.solver}{guidance}, in batches of {batch}; "
        f"errors of the network enlarged at most {largest:.3g}-fold by a step"
    ]


def run(config: Config, leader: Leader | None = None) -> None:
    """Generate what is missing, then publish the samples, pictures of some and, last, samples.json.

    leader: this process, of ranks that share the tokens of samples, once they have met.
    """
    if config.sequence_parallel > 1 and leader is None:
        from tools.sample.networks.shared_tokens import together

        together(config.sequence_parallel, config.device, Path(config.output), partial(run, config))
        return
    from core.distributed import device_choice
    from core.progress import say
    from core.queue import shared_job
    from core.run.claim import claim
    from tools.sample import sharing
    from tools.sample.preparing import prepare
    from tools.sample.publishing import publish
    from tools.sample.record import describing, unchanged
    from tools.sample.requests.asked import SampleSettings, read_asked, set_by_preset

    config = replace(config, **set_by_preset(section(SampleSettings, config)))
    sections = section(SampleSettings, config), section(describing.Making, config)
    asked, source, output = read_asked(sections[0]), Path(config.source), Path(config.output)
    device = device_choice.own_device(config.device)

    def take() -> str:
        return claim(
            output,
            config,
            done=SAMPLES,
            overwrite=config.overwrite,
            contents=unchanged.contents(source, output, config.weak, asked, config.task, config.classifier),
            made=partial(samples_made, output),
        )

    known = source, output, asked, config.task, config.classifier
    record, finished = (None, "") if config.overwrite else look(*known, take)
    if finished:
        say(finished)
        return
    job = prepare(*sections, asked, device, record, leader)  # first: overwriting removes what is there
    if config.overwrite:
        is_alone = leader is not None
        shared_job.begin_anew(output, config.queue, take, sharing.shown, is_alone=is_alone)
    else:
        take()
    agreed = describing.begin(output, job.made_from)
    if record is None and agreed["sha256"] != job.made_from["sha256"]:
        job = prepare(*sections, asked, device, agreed, leader)  # another worker began at once, and was first
    parts = job.parts(agreed["sha256"])
    units = sharing.SampledUnits(job, parts, lambda: publish(job, parts))
    shared_job.work(units, config.queue)
    weights = f"the {job.trained.weights} weights of {job.trained.checkpoint}"
    say(f"{output}: {counted(job.schedule.count, 'sample')} from {weights}")


def look(
    source: Path, output: Path, asked: Asked, task: TaskConfig, classifier: str, take: Callable[[], str]
) -> tuple[dict[str, Any] | None, str]:
    """Return what samples in the output are made from and, if they are finished, words that say so.

    task, classifier: of the job.  take: claims the output; returns "new", "continue" or "finished".
    UserError where the same command would make others now, WorkError where finished samples are damaged.
    """
    from core.run.folder import CONFIG
    from tools.sample import sharing
    from tools.sample.record import unchanged

    if not (output / CONFIG).is_file():
        return None, ""
    state, record = take(), read_made_from(output)
    if state != "finished":
        return record, ""
    samples = Samples.read(output)
    samples.verify()
    if record is not None:
        unchanged.require_unchanged(source, output, asked, task, record, classifier)
    sharing.clear(output)  # left by a kill after samples.json
    return record, f"{output}: finished before, {samples.origin}"
