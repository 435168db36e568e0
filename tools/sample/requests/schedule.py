"""Every sample of a sampling job: from which request it comes, its conditions, its noise, its form.

Samples are numbered in the order of the requests; those of one form (size, frames, sampler) are generated
together. The noise of a sample is a function of its seed and number alone, so rows that state equal ones
share it, whatever their prompt, class or sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.diffusion.sampling import SamplerConfig
from core.draws import Draws
from core.errors import UserError
from core.progress import say
from tools.sample.conditions import chosen_classes, require_text, turns_of
from tools.sample.given.config import PLAIN, TaskConfig
from tools.sample.requests.asked import Asked, SampleSettings
from tools.sample.requests.reading import Wrong, require_few
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
    """What samples of one batch have in common.  fps: frames per second of their files."""

    size: Size
    fps: float
    sampler: SamplerConfig
    task: TaskConfig = PLAIN


Check = Callable[[Form, tuple[str, ...], tuple[str, ...]], object]


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


def by_requests(asked: Asked, settings: SampleSettings, space: LatentSpace, check: Check) -> Schedule:
    """Return the samples of requests, in their order.

    check: refuses a form for samples with these conditions, and these to move away from.
    UserError with all rows that cannot be used, if there are more than the config allows.
    """
    making = _Making(settings, space, check)
    wrong = list(asked.wrong)
    for numbered in asked.requests:
        try:
            making.add(numbered.request, asked.metadata.get(numbered.row))
        except UserError as error:
            wrong.append(Wrong(numbered.row, str(error)))
    if left_out := require_few(Path(settings.requests), wrong, settings.bad_requests):
        say(left_out)
    if not making.requests:
        raise UserError("requests", settings.requests, "a file with at least one request that can be used")
    return making.schedule()


class _Making:
    """Collect the samples of one request after the other."""

    def __init__(self, settings: SampleSettings, space: LatentSpace, check: Check) -> None:
        self.settings, self.space, self.check = settings, space, check
        self.requests: list[Request] = []
        self.forms: dict[Form, int] = {}
        self.texts: dict[str, int] = {}
        self.extra: dict[int, Any] = {}
        self.toward: list[float] = []
        self.columns: list[tuple[int, ...]] = []  # row, within, label, text, number, form, negative ones
        self.seeds: list[int] = []
        self.labels: dict[tuple[str, str], int] = {}

    def add(self, request: Request, extra: Any) -> None:
        """Add the samples of a request; UserError, with nothing added, if there can be none."""
        form, label = self._form(request), self._label(request.class_name, "class")
        negative = self._label(request.negative_class, "negative_class")
        self.check(form, parts(label >= 0, request.prompt), parts(negative >= 0, request.negative_prompt))
        row, running = len(self.requests), len(self.seeds)
        text = self._text(request.prompt, "prompt")
        negative_text = self._text(request.negative_prompt, "negative_prompt")
        number = self.forms.setdefault(form, len(self.forms))
        is_own = request.seed is not None or request.number is not None
        first = (request.number or 0) if is_own else running
        task, count = request.task(self.settings.task), request.count or self.settings.each
        for within in range(count):
            noise = first if task.to_number is not None else first + within
            self.columns.append((row, within, label, text, noise, number, negative, negative_text))
            self.toward.append(toward(task, within, count))
            self.seeds.append(self.settings.seed if request.seed is None else request.seed)
        self.requests.append(request)
        if extra is not None:
            self.extra[row] = extra

    def schedule(self) -> Schedule:
        row, within, label, text, number, form, *others = np.array(self.columns, np.int64).T
        negative_label, negative_text = others
        return Schedule(
            tuple(self.forms),
            tuple(self.texts),
            tuple(self.requests),
            row,
            within,
            label,
            text,
            tuple(self.seeds),
            number,
            form,
            negative_label,
            negative_text,
            np.array(self.toward),
            self.extra,
        )

    def _form(self, request: Request) -> Form:
        usual = self.settings
        size = Size(
            request.frames or usual.frames, request.height or usual.height, request.width or usual.width
        )
        task = replace(request.task(usual.task), toward=None)
        return Form(size, request.fps or usual.fps, request.sampler(usual.sampler), task)

    def _text(self, text: str, column: str) -> int:
        require_text(text, self.space, column)
        return self.texts.setdefault(text, len(self.texts)) if text else -1

    def _label(self, name: str, column: str) -> int:
        if (name, column) not in self.labels:
            self.labels[name, column] = class_number(name, self.space, column)
        return self.labels[name, column]


def parts(label: object, text: object) -> tuple[str, ...]:
    """Say which conditions there are, of "label" and "text"."""
    return ("label",) * bool(label) + ("text",) * bool(text)
