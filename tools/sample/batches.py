"""The batches of a sampling job: what they are made from, and how they are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.diffusion.tasks.task import Observe
from core.errors import UserError, below
from core.faults.failpoints import failpoint
from core.run.folder import CONFIG, SAMPLES
from tools.runs.loaded_run import LoadedRun
from tools.runs.objective_kind import maps_to_data
from tools.runs.samples import FILES, MADE_FROM, OVERVIEW
from tools.sample import parts as sample_parts
from tools.sample.conditions import require_trained, untrained_frames
from tools.sample.decoding import Decoder, Made
from tools.sample.files.file_parts import LATENTS_SUFFIX, FileParts
from tools.sample.files.kinds import ALL_IN_ONE, KINDS, require_encodable
from tools.sample.files.naming import fill, ignores_case, require_different
from tools.sample.generating import Beside, Maker, make_latents
from tools.sample.given.known import Keeper
from tools.sample.guiding import Guiding
from tools.sample.parts import Decoded, Parts, Store
from tools.sample.prompts import Prompts
from tools.sample.record import describing
from tools.sample.requests.asked import Asked, SampleSettings
from tools.sample.requests.fitting import doubts, latent_shape
from tools.sample.requests.presets import PRESETS
from tools.sample.requests.schedule import Schedule, Size

FILES_A_FOLDER = 1000  # {part} in names of files
OWN_FILES = (OVERVIEW, SAMPLES, FILES, MADE_FROM, CONFIG)


@dataclass(frozen=True)
class Job:
    """A sampling job: everything that its batches share."""

    settings: SampleSettings
    making: describing.Making
    asked: Asked
    trained: LoadedRun
    schedule: Schedule
    guiding: Guiding
    prompts: Prompts | None = None
    is_compiled: bool = False

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """The record of everything that the samples depend on, as this worker finds it."""
        known = self.asked, self.trained, self.schedule, self.shapes
        return describing.describe(self.settings, self.making, *known, self.guiding.record)

    @cached_property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """(C, T, H, W) of the latents of each form."""
        return [shape_of(self.trained)(form.size) for form in self.schedule.forms]

    @property
    def keeper(self) -> Keeper:
        """The encoder of given pictures and clips."""
        return Keeper.of(self.trained, Path(self.making.source))

    def beside_of(self, number: int, observe: Observe | None = None) -> Beside:
        """Return what the samples of a form are made from beside noise; its files are read."""
        if number not in self._beside:
            task, size = self.schedule.forms[number].task, self.sizes[number]
            pixels = (size.frames, size.height, size.width)
            self._beside.clear()
            with below("task"):
                known = self.keeper.known(task, pixels), self.keeper.windows(task, pixels)
                self._beside[number] = Beside(*known)
        return replace(self._beside[number], observe=observe)

    @cached_property
    def _beside(self) -> dict[int, Beside]:
        """The inputs of the last form's samples, by its number: batches of one form follow each other."""
        return {}

    @cached_property
    def sizes(self) -> list[Size]:
        """Frames, height and width of the pixels of each form."""
        factor = self.trained.autoencoder.spatial_compression
        return [
            Size(form.size.frames, height * factor, width * factor)
            for form, (_, _, height, width) in zip(self.schedule.forms, self.shapes, strict=True)
        ]

    @cached_property
    def names(self) -> list[str]:
        """The path of each sample's file below the output; UserError where there can be none."""
        files, schedule = self.settings.files, self.schedule
        suffixes = [KINDS[files.of(form.size.frames)[0]].suffix for form in schedule.forms]
        return self._filled(suffixes)

    def _filled(self, suffixes: Sequence[str]) -> list[str]:
        """Return a path for each sample that ends as the files of its form do."""
        name, form = self.settings.files.name, self.schedule.form
        return [fill(name, suffixes[form[index]], self.fields(index)) for index in range(len(form))]

    @property
    def folders(self) -> set[Path]:
        """The folders of the samples' files."""
        if self.settings.files.kind == ALL_IN_ONE:
            return set()
        return {(Path(self.making.output) / name).parent for name in self.names}

    def require_nameable(self) -> None:
        """Refuse names of files that cannot be, and samples of several forms for one file of arrays."""
        if self.settings.files.kind != ALL_IN_ONE:
            any_case = ignores_case(Path(self.making.output))
            with below("files"):
                require_different(self.names, OWN_FILES, any_case=any_case)
                if self.settings.files.latents:
                    latents = self._filled([LATENTS_SUFFIX] * len(self.shapes))
                    require_different(latents, (), any_case=any_case)
        elif len(self.schedule.forms) > 1:
            expected = f"{', '.join(KINDS)}, since samples differ in size or sampler"
            raise UserError("files.kind", "npz", expected)

    def require_encodable(self) -> None:
        """Refuse kinds of films whose encoders do not take frames of the samples' sizes."""
        with below("files"):
            for size in dict.fromkeys(self.sizes):
                require_encodable(*self.settings.files.of(size.frames), size.height, size.width)

    def fields(self, index: int) -> dict[str, int | str]:
        """Return the values of a sample's fields in the template of its file's name."""
        schedule, classes = self.schedule, self.trained.space.classes
        label, text, row = schedule.label[index], schedule.text[index], int(schedule.row[index])
        label_name = classes[label] if label >= 0 else ""
        prompt = schedule.texts[text] if text >= 0 else ""
        request = schedule.requests[row] if schedule.requests else None
        return {
            "index": index,
            "row": row,
            "k": int(schedule.within[index]),
            "class": label_name,
            "prompt": prompt,
            "name": request.file_name if request is not None else prompt or label_name,
            "folder": request.folder if request is not None else "",
            "seed": schedule.seed[index],
            **self._negative(index),
            "number": int(schedule.number[index]),
            "part": index // FILES_A_FOLDER,
        }

    def _negative(self, index: int) -> dict[str, str]:
        """Return the negative class and prompt of a sample, where it has any."""
        schedule, found = self.schedule, {}
        if (label := schedule.negative_label[index]) >= 0:
            found["negative_class"] = self.trained.space.classes[label]
        if (text := schedule.negative_text[index]) >= 0:
            found["negative_prompt"] = schedule.texts[text]
        return found

    def warnings(self) -> list[str]:
        """Return warnings about the job, each once."""
        found = []
        for number, form in enumerate(self.schedule.forms):
            with below("sampler"):
                conditions = self.schedule.given(number), self.schedule.negative(number)
                frames = self.keeper.is_condition(form.task)
                source, lag = Path(self.making.source), form.sampler.frame_lag
                space, maps = self.trained.space, maps_to_data(source)
                found += require_trained(space, form.sampler, *conditions, frames=frames, maps_to_data=maps)
                if form.task.is_plain:
                    found += untrained_frames(source, form.size.frames, lag)
            found += self.keeper.notes(form.task)
        found += doubts(self.schedule, self.making.classifier)
        return list(dict.fromkeys(found))

    def parts(self, made_from: str) -> Store:
        """Return the store of finished batches. made_from: hash of the record that this job keeps to."""
        output, schedule = Path(self.making.output), self.schedule
        folder = output / sample_parts.FOLDER
        if self.settings.files.kind == ALL_IN_ONE:
            size = self.sizes[0]
            frames = (size.frames,) if size.frames > 1 else ()
            return Parts(folder, made_from, schedule.count, (*frames, size.height, size.width, 3))
        files = self.settings.files
        fps = [schedule.forms[form].fps for form in schedule.form]
        kinds = [files.of(schedule.forms[form].size.frames) for form in schedule.form]
        known = schedule.order, self.names, fps, kinds, self.beside
        return FileParts(folder, output, made_from, *known)

    @property
    def beside(self) -> dict[int, tuple[str, str]]:
        """Path and content of what a benchmark wants beside the first sample of a request, by that sample."""
        preset, schedule = self.settings.preset, self.schedule
        if not preset or (path := PRESETS[preset].beside) is None:
            return {}
        first = np.flatnonzero(schedule.within == 0)
        return {
            int(index): (path(row), schedule.extra[row])
            for index in first
            if (row := int(schedule.row[index])) in schedule.extra
        }

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder from latents to pixels."""
        return Decoder.of(self.trained)

    def form_at(self, rows: range) -> int:
        """Return the form of the samples at places `rows` of the order, which share one."""
        return int(self.schedule.form[self.schedule.order[rows.start]])

    def make(self, rows: range, most: int = 0) -> Made:
        """Return the latents of the samples at places `rows` of the order, which are of one form.

        They are generated in batches of `batch`.  most: samples of the largest unit of the form; networks
        that are compiled make as many in every batch, of which those too many are samples made twice.
        """
        size, form = self.making.batch, self.form_at(rows)
        maker, networks, made = Maker.of(self.trained), (self.prompts, self.guiding), []
        for start in range(rows.start, rows.stop, size):
            samples = self.schedule.order[start : min(start + size, rows.stop)]
            given, count = (self.schedule, *networks, self.beside_of(form)), len(samples)
            if self.is_compiled and count < (width := min(size, most)):
                samples = np.concatenate([samples, np.repeat(samples[-1:], width - count)])
            made.append(make_latents(maker, self.shapes[form], samples, *given)[:count])
            failpoint("sample.batch")
        return self.decoder.hand_over(torch.cat(made), self.sizes[form].frames)

    def decoded(self, made: Made) -> Iterator[Decoded]:
        """Decode latents to what is published, in batches of `batch`."""
        latents = self.settings.files.latents
        return self.decoder.decoded(made, self.making.batch, with_latents=latents)


def shape_of(trained: LoadedRun) -> Callable[[Size], tuple[int, int, int, int]]:
    """Return what gives the latent shape of a size."""
    return partial(latent_shape, trained.space, trained.network, trained.autoencoder)
