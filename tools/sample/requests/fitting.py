"""Check the requested samples against the networks that are to generate them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from core.diffusion.guidance.idle import idle_fields
from core.errors import UserError, below
from tools.sample.conditions import as_trained, require_trained
from tools.sample.files.kinds import ALL_IN_ONE, require_fitting
from tools.sample.requests.asked import Asked, SampleSettings
from tools.sample.requests.collecting import by_requests
from tools.sample.requests.presets import require_frames
from tools.sample.requests.schedule import Form, Schedule, Size, by_turns

if TYPE_CHECKING:
    from models.autoencoder.interface import AnyAutoencoder
    from models.denoisers.network import DenoiserConfig
    from tools.runs.loaded_run import LatentSpace
    from tools.sample.given.known import Keeper


def make_schedule(
    settings: SampleSettings,
    asked: Asked,
    space: LatentSpace,
    source: Path,
    shape_of: Callable[[Size], Sequence[int]] | None = None,
    keeper: Keeper | None = None,
) -> Schedule:
    """Return the samples that are asked for; UserError for what cannot be made.

    source: the folder of the run or export.
    shape_of: the latent shape of a size, or a refusal, where the networks are open; without them the shift
    that depends on it is that of the run's most frequent shape.
    keeper: looks at what samples are given, where the networks are open.
    """

    @cache  # many requests have one form
    def check(form: Form, given: tuple[str, ...], negative: tuple[str, ...]) -> None:
        require_kind(settings, form)
        shape = shape_of(form.size) if shape_of is not None else space.shapes[0]
        frames = False
        if keeper is not None:
            keeper.check(form.task, form.sampler, keeper.pixels(form.size.frames, shape))
            frames = keeper.is_condition(form.task)
        with below("sampler"):
            sampler, _ = as_trained(form.sampler, space, source, shape)
            require_trained(space, sampler, given, negative, frames=frames)

    if asked.requests or asked.wrong:
        return by_requests(asked, settings, space, check)
    schedule = by_turns(settings, asked.texts, space)
    # Its sampler is judged once it is known that a job in the output is the same.
    require_kind(settings, schedule.forms[0])
    if keeper is not None and shape_of is not None:
        form = schedule.forms[0]
        pixels = keeper.pixels(form.size.frames, shape_of(form.size))
        with below("task"):
            keeper.check(form.task, form.sampler, pixels)
    return schedule


def settle_samplers(
    schedule: Schedule, space: LatentSpace, source: Path, shape_of: Callable[[Size], Sequence[int]]
) -> tuple[Schedule, list[str]]:
    """Return the samples with samplers as the run was trained, and lines that say what that is.

    source: the folder of the run or export.  shape_of: the latent shape of a size.
    """
    forms, lines = [], list[str]()
    for form in schedule.forms:
        shape = shape_of(form.size)
        with below("sampler"):
            sampler, notes = as_trained(form.sampler, space, source, shape)
        forms.append(replace(form, sampler=sampler))
        lines += notes
    return replace(schedule, forms=tuple(forms)), list(dict.fromkeys(lines))


def doubts(schedule: Schedule, classifier: str) -> list[str]:
    """Return warnings about settings that have no effect, or possibly an unintended one.

    classifier: folder of the one that is opened, "" for none.
    """
    return [*_idle_guidance(schedule, classifier), *_mixed_ways(schedule)]


def _idle_guidance(schedule: Schedule, classifier: str) -> list[str]:
    """Return warnings about guidance settings that affect no sample."""
    found = list[str]()
    forms = [form.sampler for form in schedule.forms]
    if classifier and not any(sampler.guide.classifier for sampler in forms):
        found.append(f"classifier={classifier} has no effect with sampler.guide.classifier=0")
    idle = [idle_fields(sampler, (*schedule.given(n), "frames")) for n, sampler in enumerate(forms)]
    if fields := [field for field in idle[0] if all(field in other for other in idle)]:
        named, has = ", ".join(f"sampler.{field}" for field in fields), "have" if len(fields) > 1 else "has"
        found.append(f"{named} {has} no effect without guidance (sampler.guidance=1)")
    return found


def _mixed_ways(schedule: Schedule) -> list[str]:
    """Return a warning of samples between two noises that have several conditions."""
    if schedule.requests or schedule.forms[0].task.to_number is None:
        return []
    several = [name for name in ("label", "text") if len(set(getattr(schedule, name).tolist())) > 1]
    field = {"label": "classes", "text": "prompts"}
    advice = " and ".join(f"one of {field[name]} alone" for name in several)
    return [f"samples between two noises have conditions in turns; {advice} keeps to one way"] * bool(several)


def require_kind(settings: SampleSettings, form: Form) -> None:
    """Refuse files, or a benchmark, that cannot take samples of a form."""
    files, frames = settings.files, form.size.frames
    require_frames(settings.preset, frames)
    if files.kind != ALL_IN_ONE:
        with below("files"):
            require_fitting(*files.of(frames), frames)


def by(*lengths: int) -> str:
    """Return lengths as people write them, "17 x 32 x 32"."""
    return " x ".join(map(str, lengths))


def latent_shape(
    space: LatentSpace, network: DenoiserConfig, autoencoder: AnyAutoencoder, size: Size
) -> tuple[int, int, int, int]:
    """Return (C, T, H, W) of a sample: the most frequent one with so many frames, unless a size is given.

    UserError for a size that the autoencoder or the network cannot make.
    """
    shapes = space.shapes
    factor = autoencoder.spatial_compression
    frames, _, _ = autoencoder.latent_shape((size.frames, factor, factor))
    known = [(h * factor, w * factor) for _, t, h, w in shapes if t == frames]
    if not known and not (size.height and size.width):
        expected = f"one of the run's latents {shapes}, or height and width"
        raise UserError("frames", size.frames, expected)
    height, width = size.height or known[0][0], size.width or known[0][1]
    latent = autoencoder.latent_shape((size.frames, height, width))
    try:
        network.tokens(latent)
    except UserError as error:
        of_size = f"a size whose latents, {by(*latent)} here, model.{error.field}={error.value} divides"
        expected = f"{of_size}; a latent is {by(factor, factor)} pixels"
        raise UserError("frames, height, width", by(size.frames, height, width), expected) from None
    return (shapes[0][0], *latent)
