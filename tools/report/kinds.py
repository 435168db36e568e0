"""Find out which job a folder is an output of, and its reader."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from core.config.yaml_files import read_recorded
from core.errors import UserError
from core.files import published
from core.reading.instead import instead
from core.run.claim import job_of
from core.run.folder import CHECKPOINTS, CONFIG, EXPORT, METRICS, SAMPLES, SCORES, SWEEP
from data.dataset.schema import MANIFEST
from tools.report.output import Output
from tools.report.readers.trying import tried

MOST_OUTPUTS = 24  # side by side on one page
EXPECTED = "the output of a job: a run, dataset, samples, scores, an export, or a folder of such"


class Kind(NamedTuple):
    """job: whose outputs these are.  file: in the folder, which tells this kind where no config does."""

    job: str
    name: str
    file: str


KINDS = (
    Kind("train-autoencoder", "autoencoder run", ""),
    Kind("train", "training run", METRICS),
    Kind("shard", "raw dataset", MANIFEST),
    Kind("encode", "latent cache", MANIFEST),
    Kind("sample", "samples", SAMPLES),
    Kind("evaluate", "scores", SCORES),
    Kind("sweep", "sweep", SWEEP),
    Kind("export", "export", EXPORT),
)


def kind_of(folder: Path) -> Kind | None:
    """Return the kind of a folder; None where it is no output of these jobs."""
    if (folder / EXPORT).is_file():
        return KINDS[-1]
    job = job_of(folder)
    for kind in KINDS:
        if job == kind.job or (job is None and kind.file and (folder / kind.file).is_file()):
            return kind
    return KINDS[1] if (folder / CHECKPOINTS).is_dir() else None


def find(source: str) -> list[Path]:
    """Return the outputs at a place: the folder itself, or those in it, as of a demo.

    UserError where there is none, or more than a page shows.
    """
    folder = Path(source)
    if "://" in source:
        raise UserError("source", source, "a folder here; longtake inspect shows datasets behind a URL")
    if kind_of(folder) is not None:
        return [folder]
    found = [path for path in _below(folder, 2) if kind_of(path) is not None]
    if not found:
        raise UserError("source", source, EXPECTED + instead(folder))
    return found


def _below(folder: Path, levels: int) -> list[Path]:
    """List folders in a folder, and in those of them that are no outputs, so many levels deep."""
    found = []
    for path in published(folder):
        if path.is_dir() and not path.is_symlink():
            found.append(path)
            if levels > 1 and kind_of(path) is None:
                found += _below(path, levels - 1)
    return found


def read(folder: Path, name: str, *, sheet: bool, alone: bool) -> Output:
    """Read one output.  alone: whether samples and scores of a run are to be looked for beside it."""
    kind = kind_of(folder)
    if kind is None:
        raise UserError("source", folder, EXPECTED + instead(folder))
    output = Output(name, folder, kind.name)
    if (folder / CONFIG).is_file():
        output.config = tried(output, CONFIG, lambda: read_recorded(folder / CONFIG), {})
        words = ["longtake", kind.job, str(folder / CONFIG), f"output={folder}-again"]
        output.command = shlex.join(words)
    else:
        output.troubles.append(f"{CONFIG}: missing, so neither settings nor a command can be shown")
    _reader(kind, sheet=sheet, alone=alone)(output)
    return output


def _reader(kind: Kind, *, sheet: bool, alone: bool) -> Callable[[Output], None]:
    """Return what reads outputs of a kind; imported when needed, since some take long."""
    if kind.job in ("shard", "encode"):
        from tools.report.readers import datasets

        return lambda output: datasets.read(output, sheet=sheet)
    if kind.job == "sweep":
        from tools.report.readers import sweeps

        return sweeps.read
    from tools.report.readers import generated

    if kind.job in ("train", "train-autoencoder"):
        from tools.report.readers import training

        def run(output: Output) -> None:
            training.read(output)
            if alone:
                generated.add_of_run(output)

        return run
    by_job = {
        "sample": generated.read_samples,
        "evaluate": generated.read_scores,
        "export": generated.read_export,
    }
    return by_job[kind.job]
