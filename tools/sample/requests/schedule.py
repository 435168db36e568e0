"""Every sample of a sampling job: from which request it comes, its conditions, its noise, its form.

Samples are numbered in the order of the requests; those of one form (size, frames, sampler) are generated
together. The noise of a sample is a function of its seed and number alone, so rows that state equal ones
share it, whatever their prompt, class or sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.diffusion.sampling import SamplerConfig
from core.draws import Draws
from core.errors import UserError
from tools.sample.conditions import chosen_classes, require_text, turns_of
from tools.sample.given.config import PLAIN, TaskConfig
from tools.sample.requests.asked import SampleSettings
from tools.sample.requests.request import Request

if TYPE_CHECKING:
    from tools.runs.loaded_run import LatentSpace

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """Frames, height and width of a sample in pixels; 0 is what the run was trained on."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Form:
    """The settings that samples of one batch share.  fps: frames per second of their files."""

    size: Size
    fps: float
    sampler: SamplerConfig
    task: TaskConfig = PLAIN


@dataclass(frozen=True)
class Schedule:
    """The samples of a job, by number: arrays have an entry a sample.

    requests: rows of a file, () where fields of the config ask for all samples.  row: number of the request.
    within: number of the sample in its request.  label: class, -1 for none.  text: number in texts, -1 for
    none.  seed, number: of its noise.  form: number in forms.
    negative_label, negative_text: what guidance moves away from, likewise.
    toward: place between its own noise and that of `task.to_number`, 0 to 1.
    extra: what a benchmark wants beside the samples of a request, by its number.
    """

    forms: tuple[Form, ...]
    texts: tuple[str, ...]
    requests: tuple[Request, ...]
    row: Numbers
    within: Numbers
    label: Numbers
    text: Numbers
    seed: tuple[int, ...]
    number: Numbers
    form: Numbers
    negative_label: Numbers
    negative_text: Numbers
    toward: NDArray[np.float64]
    extra: Mapping[int, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.number)

    @cached_property
    def order(self) -> Numbers:
        """Samples in the order in which they are generated: form by form."""
        return np.argsort(self.form, kind="stable").astype(np.int64)

    @cached_property
    def stretches(self) -> list[range]:
        """Ranges of `order` that hold the samples of one form."""
        ends = np.cumsum(np.bincount(self.form, minlength=len(self.forms)))
        return [
            range(int(end - size), int(end)) for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)
        ]

    def given(self, form: int) -> list[str]:
        """Say which conditions samples of a form have, of "label" and "text"."""
        rows = self.form == form
        has_label, has_text = (self.label[rows] >= 0).any(), (self.text[rows] >= 0).any()
        return ["label"] * bool(has_label) + ["text"] * bool(has_text)

    def negative(self, form: int) -> list[str]:
        """Say in place of which conditions all samples of a form have others to move away from."""
        rows = self.form == form
        has_label = (self.negative_label[rows] >= 0).all()
        has_text = (self.negative_text[rows] >= 0).all()
        return ["label"] * bool(has_label) + ["text"] * bool(has_text)


def by_turns(settings: SampleSettings, texts: tuple[str, ...], space: LatentSpace) -> Schedule:
    """Return the samples that the fields of a config ask for: classes and prompts take turns.

    With labels=random a class is drawn for each number, as evaluations of class-conditional models do.
    """
    number = np.arange(settings.count, dtype=np.int64)
    turns = turns_of(settings.classes, texts, space)
    label = np.resize(np.array(turns, np.int64), settings.count)
    if settings.labels == "random":
        label = np.array(turns, np.int64)[_drawn(settings.seed, number, len(turns))]
    zeros = np.zeros_like(number)
    require_text("".join(texts[:1]), space, "prompts")
    require_text(settings.negative_prompt, space, "negative_prompt")
    negative_class, negative_text, all_texts = settings.negative_class, -1, texts
    if settings.negative_prompt:
        all_texts = tuple(dict.fromkeys([*texts, settings.negative_prompt]))
        negative_text = all_texts.index(settings.negative_prompt)
    size = Size(settings.frames, settings.height, settings.width)
    return Schedule(
        forms=(Form(size, settings.fps, settings.sampler, replace(settings.task, toward=None)),),
        texts=all_texts,
        requests=(),
        row=zeros,
        within=number,
        label=label,
        text=number % len(texts) if texts else zeros - 1,
        seed=(settings.seed,) * settings.count,
        number=number if settings.task.to_number is None else zeros,
        form=zeros,
        negative_label=zeros + class_number(negative_class, space, "negative_class"),
        negative_text=zeros + negative_text,
        toward=np.array([toward(settings.task, int(within), settings.count) for within in number]),
    )


def toward(task: TaskConfig, within: int, count: int) -> float:
    """Return the place of a sample on the way between two noises, by its number of `count` samples."""
    if task.to_number is None:
        return 0.0
    return within / max(1, count - 1) if task.toward is None else task.toward


def class_number(name: str, space: LatentSpace, field: str) -> int:
    """Return the label of a class, -1 for ''; UserError, of the field, for one that the run does not have."""
    if not name:
        return -1
    try:
        return chosen_classes([name], space)[0]
    except UserError as error:
        raise UserError(field, error.value, str(error.expected)) from None


def _drawn(seed: int, number: Numbers, classes: int) -> Numbers:
    """Draw a class for each sample, which depends on nothing but seed and number."""
    rows = torch.from_numpy(number)
    bits = Draws(seed, 0, rows, torch.zeros_like(rows)).bits("sample_label", 1)[:, 0]
    return (bits * classes >> 32).numpy()
