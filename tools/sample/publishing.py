"""Publish a finished sampling job: one file of arrays or a list of files, pictures of some, the manifest."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.config.loading import to_dict
from core.files import atomic_file, read_bytes, sha256_file, write_json
from core.progress import say
from core.run.folder import SAMPLES
from data.media.images import encode_mp4
from data.media.labels.lettering import UNWRITTEN, legend
from data.media.pictures import (
    choose_rows,
    contact_sheet,
    first_of_classes,
    image_grid,
    page,
    write_clips,
    write_png,
)
from tools.runs.sample_files import decode
from tools.runs.samples import ARRAYS, FILES, OVERVIEW
from tools.sample.files.file_parts import FileParts
from tools.sample.files.kinds import ALL_IN_ONE, KINDS
from tools.sample.parts import Parts, Store, all_ranges, made_anew
from tools.sample.trajectory import draw_trajectory

if TYPE_CHECKING:
    from tools.sample.batches import Job

SHOWN_LETTERS = 24  # of a prompt, beside its pictures
GRID = 10  # rows and columns of images in the overview
CLIPS = 10  # in the overview
STRIP = 17  # pictures beside each other
MOST_PROMPTS = 1000  # in the manifest; all of them stand in the list of files
REPEATED = ("class", "prompt", "name", "folder", "negative_class", "negative_prompt")


def publish(job: Job, parts: Store) -> None:
    """Put the parts together, draw pictures of some, and write the manifest; then the parts can go."""
    output = Path(job.making.output)
    if isinstance(parts, Parts):
        with atomic_file(output / ARRAYS) as file:
            write_arrays(file, parts, job.schedule.label, for_adm=job.settings.preset == "adm")
        digest = sha256_file(output / ARRAYS)
    else:
        assert isinstance(parts, FileParts)
        with atomic_file(output / FILES, "w") as file:
            for row in file_rows(job, parts):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        digest = sha256_file(output / FILES)
    draw(job, parts)
    draw_between(job, parts)
    if job.settings.trajectory:
        draw_trajectory(job)
    write_json(output / SAMPLES, provenance(job, digest, parts.made_from))


def write_arrays(file: IO[bytes], parts: Parts, labels: NDArray[np.int64], *, for_adm: bool) -> None:
    """Write `arr_0` (N, [T,] H, W, 3) part by part, and the labels, as NumPy's npz.

    for_adm: labels also as `arr_1`, as ADM's evaluator and torch-fidelity read them.
    """
    shape = (parts.count, *parts.shape)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            _write_header(member, shape, np.dtype(np.uint8))
            for _, pixels in parts.whole():
                member.write(pixels.tobytes())
        for name in ("arr_1.npy", "labels.npy") if for_adm else ("labels.npy",):
            with archive.open(name, "w", force_zip64=True) as member:
                _write_header(member, labels.shape, labels.dtype)
                member.write(labels.tobytes())


def _write_header(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)


def file_rows(job: Job, parts: FileParts) -> Iterator[dict[str, Any]]:
    """Yield a row for each file in the order of samples, with the request that makes it again."""
    rows = {}
    for found in all_ranges(parts):
        with made_anew(parts, found):
            rows.update({row["index"]: row for row in parts.receipt(found)})
    for index in range(parts.count):
        size, schedule = job.sizes[job.schedule.form[index]], job.schedule
        sampler = schedule.forms[schedule.form[index]].sampler
        known = job.fields(index)
        request = {name: known[name] for name in REPEATED if known.get(name, "") != ""}
        numbers = {"seed": known["seed"], "number": known["number"], "count": 1, **asdict(size)}
        chosen = ("solver", "steps", "guidance", "guidance_start", "guidance_end")
        settings = {name: getattr(sampler, name) for name in chosen}
        fps = {"fps": parts.fps[index]} if size.frames > 1 else {}
        task = schedule.forms[schedule.form[index]].task
        made = task.stated() | ({} if task.to_number is None else {"toward": float(schedule.toward[index])})
        classifier = job.guiding.classifier
        guided = {"classifier": classifier.saved.weights_sha256} if classifier else {}
        inputs = {path: job.asked.files[path] for path in task.places.values()}
        known_by = {**guided, **({"inputs": inputs} if inputs else {})}
        yield {**rows[index], **known_by, "request": {**request, **numbers, **fps, **settings, **made}}


def draw(job: Job, parts: Store) -> None:
    """Draw pictures of a chosen few: a grid of images, or a sheet and a film of clips."""
    output, schedule = Path(job.making.output), job.schedule
    labels, names = _shown_labels(job)
    most = max(range(len(schedule.forms)), key=lambda form: int((schedule.form == form).sum()))
    candidates = np.flatnonzero(schedule.form == most)  # pictures of one size
    size = job.sizes[most]
    if size.frames == 1:
        shown = [number for _, row in choose_rows(labels[candidates], GRID, GRID) for number in row]
    else:
        shown = first_of_classes(labels[candidates], CLIPS)
    chosen = candidates[sorted(shown)]
    pixels, labels = _pixels(job, parts, chosen), labels[chosen]
    alone = isinstance(parts, Parts)
    if size.frames == 1:
        write_png(output / ("images.png" if alone else OVERVIEW), image_grid(pixels, labels, names))
    else:
        write_png(output / ("contact.png" if alone else OVERVIEW), contact_sheet(pixels, labels, names))
        if alone:
            write_clips(output / "clips.mp4", pixels, labels, names, job.settings.fps)
    for line in legend(labels, names):
        say(f"in the pictures {line}, {UNWRITTEN}", of_any_rank=True)


def draw_between(job: Job, parts: Store) -> None:
    """Draw samples that lie between two noises in a row, and images of them as a film: `between-ROW`."""
    output, schedule = Path(job.making.output), job.schedule
    for row in np.unique(schedule.row):
        chosen = np.flatnonzero(schedule.row == row)
        form = int(schedule.form[chosen[0]])
        if schedule.forms[form].task.to_number is None or len(chosen) < 2:
            continue
        pixels, is_film = _pixels(job, parts, chosen), job.sizes[form].frames > 1
        shown = pixels[:, -1] if is_film else pixels
        every = np.linspace(0, len(shown) - 1, min(STRIP, len(shown))).round().astype(int)
        write_png(output / f"between-{row}.png", page([list(shown[every])], []))
        if not is_film:
            encode_mp4(output / f"between-{row}.mp4", pixels, schedule.forms[form].fps)


def _shown_labels(job: Job) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return a number for each sample and the texts of these: prompts if there are any, else classes."""
    schedule = job.schedule
    if not schedule.texts:
        return schedule.label, job.trained.space.classes
    names = tuple(text[:SHOWN_LETTERS] for text in schedule.texts)
    return schedule.text, names


def _pixels(job: Job, parts: Store, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the pixels of samples of one form by number, from their part or file."""
    if isinstance(parts, Parts):
        return parts.some(chosen.tolist())
    size, output = job.sizes[job.schedule.form[chosen[0]]], Path(job.making.output)
    files = (read_bytes(output / job.names[index]) for index in chosen)
    return np.stack([decode(data, size.frames, size.height, size.width) for data in files])


def provenance(job: Job, digest: str, made_from: str) -> dict[str, Any]:
    """Return the content of samples.json: weights, settings and results.

    digest: SHA-256 of the arrays, or of the list of files.  made_from: hash of that record.
    """
    settings, trained, schedule = job.settings, job.trained, job.schedule
    one_size = len(set(job.sizes)) == 1
    size = asdict(job.sizes[0]) if one_size else {}
    own = {"files": to_dict(settings.files)} if settings.files.kind != ALL_IN_ONE else {}
    if own and one_size:
        kind, quality = settings.files.of(job.sizes[0].frames)
        own["written"] = {"kind": kind, "quality": KINDS[kind].usual if quality is None else quality}
    return {
        "run": job.making.source,
        "checkpoint": trained.checkpoint,
        "weights": trained.weights,
        "weights_sha256": trained.weights_sha256,
        "autoencoder": trained.space.encoder,
        "sampler": to_dict(settings.sampler),
        "seed": settings.seed,
        "labels": "requests" if schedule.requests else settings.labels,
        "count": schedule.count,
        **size,
        "fps": settings.fps,
        "classes": list(trained.space.classes),
        "prompts": list(schedule.texts) if len(schedule.texts) <= MOST_PROMPTS else [],
        "text_encoder": trained.space.text,
        "made_from": made_from,
        **job.guiding.record,
        **own,
        "samples_sha256": digest,
    }
