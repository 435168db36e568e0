"""Generate images or clips from a training run.

Sample number n is a function of (weights, sampler, seed, n), to rounding also where the batch differs. Any
number of workers share the batches of one output: processes, the same command typed again here or on another
node, the tasks of an array. They may join, leave or be killed; the last one puts the samples together. Until
then batches are kept in `parts/`, and all workers keep to the weights, prompts, decoder and sampler that
`made_from.json` has fixed when the first of them began.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config.loading import to_dict
from core.errors import below
from core.files import atomic_file, sha256_file, write_json
from core.run.folder import SAMPLES
from tools.runs.samples import ARRAYS, Samples, read_made_from, samples_made
from tools.sample.config import Config

SHOWN_LETTERS = 24  # of a prompt, beside its pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tools.sample.batches import Job
    from tools.sample.parts import Parts


def plan(config: Config) -> list[str]:
    """Say what `run` would generate."""
    from core.checkpoint.weights import choose
    from core.diffusion.amplification import amplifications
    from core.diffusion.paths.kinds import make_path
    from core.diffusion.sampling import time_grid
    from tools.runs.trained import LatentSpace
    from tools.sample.conditions import conditions_of, require_trained, turns_of, untrained_shift
    from tools.sample.prompts import read_prompts

    space = LatentSpace.read(Path(config.source))
    checkpoint = choose(Path(config.source), config.checkpoint)
    prompts = read_prompts(config.prompts, config.prompt_file)
    given = conditions_of(turns_of(config.classes, prompts, space), prompts)
    path = make_path(space.path)
    with below("sampler"):
        warnings = require_trained(space, config.sampler, given)
        largest = max(amplifications(space.prediction, path, time_grid(config.sampler, path)))
    what = "images" if config.frames == 1 else f"clips of {config.frames} frames"
    guidance = f", guidance {config.sampler.guidance:g}" if config.sampler.guidance != 1 else ""
    return [
        f"{config.count} {what} from the {config.weights} weights of {checkpoint}",
        f"{config.sampler.steps} steps of {config.sampler.solver}{guidance}, in batches of {config.batch}",
        f"errors of the network enlarged at most {largest:.3g}-fold by a step",
        f"into {config.output}",
        *(f"warning: {each}" for each in (*warnings, *untrained_shift(Path(config.source), config.sampler))),
    ]


def run(config: Config) -> None:
    """Generate what is missing, then publish samples.npz, the pictures and, last, samples.json."""
    from core.distributed import ranks
    from core.progress import say
    from tools.sample import sampled_from, sharing
    from tools.sample.batches import prepare
    from tools.sample.prompts import read_prompts

    texts, output = read_prompts(config.prompts, config.prompt_file), Path(config.output)
    device = ranks.own_device(config.device)
    record, finished = look(config, texts)
    if finished:
        say(finished)
        return
    job = prepare(config, texts, device, record)  # first: overwriting removes what is there
    if config.overwrite:
        sharing.begin_anew(output, config.queue, lambda: take(config, texts))
    else:
        take(config, texts)
    agreed = sampled_from.begin(output, job.made_from)
    if record is None and agreed["sha256"] != job.made_from["sha256"]:
        job = prepare(config, texts, device, agreed)  # another worker began at once, and was first
    parts = job.parts(agreed["sha256"])
    sharing.work(job, parts, lambda: publish(job, parts))
    weights = f"the {job.trained.weights} weights of {job.trained.checkpoint}"
    say(f"{output}: {config.count} samples from {weights}")


def take(config: Config, texts: tuple[str, ...]) -> str:
    """Claim the output; return "new", "continue" or "finished"."""
    from core.run.claim import claim
    from tools.sample import sampled_from

    output = Path(config.output)
    return claim(
        output,
        config,
        done=SAMPLES,
        overwrite=config.overwrite,
        contents=sampled_from.contents(config, texts),
        made=partial(samples_made, output),
    )


def look(config: Config, texts: tuple[str, ...]) -> tuple[dict[str, Any] | None, str]:
    """Return what samples in the output are made from and, if they are finished, words that say so.

    UserError where the same command would make others now, WorkError where finished samples are damaged.
    """
    from core.run.folder import CONFIG
    from tools.sample import sampled_from, sharing

    output = Path(config.output)
    if config.overwrite or not (output / CONFIG).is_file():
        return None, ""
    state, record = take(config, texts), read_made_from(output)
    if state != "finished":
        return record, ""
    samples = Samples.read(output)
    samples.verify()
    if record is not None:
        sampled_from.require_unchanged(config, texts, record)
    sharing.clear(output)  # left by a kill after samples.json
    return record, f"{output}: finished before, {samples.origin}"


def publish(job: Job, parts: Parts) -> None:
    """Put the parts together, draw the pictures, and write the manifest; then the parts can go."""
    from core.progress import say
    from data.media.lettering import legend
    from data.media.pictures import contact_sheet, image_grid, write_clips, write_png

    config, names, output = job.config, job.trained.space.classes, Path(job.config.output)
    pixels = parts.together()
    labels = job.labels
    with atomic_file(output / ARRAYS) as file:
        np.savez(file, arr_0=pixels, labels=labels)
    if job.prompts is not None:  # pictures stand under their prompts then
        names = tuple(text[:SHOWN_LETTERS] for text in job.prompts.texts)
        labels = np.arange(len(pixels)) % len(names)
    if config.frames == 1:
        write_png(output / "images.png", image_grid(pixels, labels, names))
    else:
        write_clips(output / "clips.mp4", pixels, labels, names, config.fps)
        write_png(output / "contact.png", contact_sheet(pixels, labels, names))
    for shown in legend(labels, names):
        say(f"in the pictures {shown}, whose letters the font lacks", of_any_rank=True)
    write_json(output / SAMPLES, provenance(job, pixels, parts.made_from))


def provenance(job: Job, pixels: NDArray[np.uint8], made_from: str) -> dict[str, Any]:
    """Return the content of samples.json: weights, settings and results. made_from: hash of that record."""
    config, trained = job.config, job.trained
    return {
        "run": config.source,
        "checkpoint": trained.checkpoint,
        "weights": trained.weights,
        "weights_sha256": trained.weights_sha256,
        "autoencoder": trained.space.encoder,
        "sampler": to_dict(config.sampler),
        "seed": config.seed,
        "count": len(pixels),
        "frames": config.frames,
        "height": pixels.shape[-3],
        "width": pixels.shape[-2],
        "fps": config.fps,
        "classes": list(trained.space.classes),
        "prompts": list(job.prompts.texts) if job.prompts is not None else [],
        "text_encoder": trained.space.text,
        "made_from": made_from,
        "samples_sha256": sha256_file(Path(config.output) / ARRAYS),
    }
