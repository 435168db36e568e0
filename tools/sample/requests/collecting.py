"""Collect the samples of a file of requests into one schedule; refuse the rows that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import UserError
from core.progress import say
from tools.sample.conditions import require_text
from tools.sample.requests.asked import Asked, SampleSettings
from tools.sample.requests.reading import Wrong, require_few
from tools.sample.requests.request import Request
from tools.sample.requests.schedule import Form, Schedule, Size, class_number, toward

if TYPE_CHECKING:
    from tools.runs.loaded_run import LatentSpace

Check = Callable[[Form, tuple[str, ...], tuple[str, ...]], object]


def by_requests(asked: Asked, settings: SampleSettings, space: LatentSpace, check: Check) -> Schedule:
    """Return the samples of requests, in their order.

    check: refuses a form for samples with these conditions, and these to move away from.
    UserError with all rows that cannot be used, if there are more than the config allows.
    """
    collected = _Collected(settings, space, check)
    wrong = list(asked.wrong)
    for numbered in asked.requests:
        try:
            collected.add(numbered.request, asked.metadata.get(numbered.row))
        except UserError as error:
            wrong.append(Wrong(numbered.row, str(error)))
    if left_out := require_few(Path(settings.requests), wrong, settings.bad_requests):
        say(left_out)
    if not collected.requests:
        raise UserError("requests", settings.requests, "a file with at least one request that can be used")
    return collected.schedule()


class _Collected:
    """The samples of the requests added so far, with every text, class and form numbered once."""

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
