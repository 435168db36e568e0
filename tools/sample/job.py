"""Generate images or clips from a training run.

Sample number n is a function of (weights, sampler, seed, n), to rounding also where the batch or the number
of processes differs. Finished batches are kept in `parts/` until all are there: a killed job continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config.loading import to_dict
from core.files import atomic_file, sha256_file, write_json
from tools.runs.samples import ARRAYS, SAMPLES
from tools.sample.config import Config

SHOWN_LETTERS = 24  # of a prompt, beside its pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tools.sample.batches import Job


def plan(config: Config) -> list[str]:
    """Say what `run` would generate."""
    from core.checkpoint.weights import choose
    from tools.runs.latent_space import space_file
    from tools.sample.prompts import read_prompts

    space_file(Path(config.source))
    checkpoint = choose(Path(config.source), config.checkpoint)
    read_prompts(config.prompts, config.prompt_file)
    what = "images" if config.frames == 1 else f"clips of {config.frames} frames"
    guidance = f", guidance {config.sampler.guidance:g}" if config.sampler.guidance != 1 else ""
    return [
        f"{config.count} {what} from the {config.weights} weights of {checkpoint}",
        f"{config.sampler.steps} steps of {config.sampler.solver}{guidance}, in batches of {config.batch}",
        f"into {config.output}",
    ]


def run(config: Config) -> None:
    """Generate what is missing, then publish samples.npz, the pictures and, last, samples.json."""
    from core.distributed import ranks
    from core.progress import say
    from core.run.claim import claim
    from tools.sample.batches import prepare
    from tools.sample.prompts import read_prompts

    texts = read_prompts(config.prompts, config.prompt_file)
    world = ranks.start(config.device, folder=Path(config.output))
    try:
        output = Path(config.output)
        keep = ranks.on_first_rank(lambda: (output / SAMPLES).exists() and not config.overwrite)
        job = None if keep else prepare(config, texts, world)  # first: overwriting removes what is there
        ranks.on_first_rank(lambda: claim(output, config, done=SAMPLES, overwrite=config.overwrite))
        if job is None:
            say(f"{output}: finished before")
            return
        job.generate()
        ranks.barrier()
        ranks.on_first_rank(lambda: publish(job))
        say(f"{output}: {config.count} samples")
    finally:
        ranks.stop(world)


def publish(job: Job) -> None:
    """Put the parts together, draw the pictures, and write the manifest; then the parts can go."""
    import shutil

    from data.media.pictures import contact_sheet, image_grid, write_clips, write_png

    config, names, output = job.config, job.trained.space.classes, Path(job.config.output)
    pixels = np.concatenate([_read_part(job.part(number)) for number, _ in job.parts()])
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
    write_json(output / SAMPLES, provenance(job, pixels))
    shutil.rmtree(output / "parts")


def provenance(job: Job, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """What samples.json says: from which weights, how, and what came out."""
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
        "samples_sha256": sha256_file(Path(config.output) / ARRAYS),
    }


def _read_part(path: Path) -> NDArray[np.uint8]:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["arr_0"]
