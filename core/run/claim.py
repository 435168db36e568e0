"""Claim an output folder: a job does so before it writes, so that no other job's output is overwritten."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

from core import environment
from core.config.building import earlier_layer, under
from core.config.loading import dump
from core.config.yaml_files import HEADER, read_recorded
from core.errors import UserError
from core.files import MEETING_PREFIX, published, read_head, temporaries, write_text, write_text_once
from core.progress import say
from core.run.changes import (
    Contents,
    changes,
    nothing_recorded,
    require_same,
    require_same_contents,
    shown,
)
from core.run.folder import CHECKPOINTS, CONFIG, LOCK, METRICS
from core.run.run_lock import RunLock
from core.run.ways_out import holds

INITIAL_FIELD = "initial"  # of jobs whose runs can begin from the weights of another
LONGEST_NAME = 4096  # bytes in which the line that names the job ends
SUBMISSIONS = "submissions"  # in an output: what `submit` keeps there, and the code that the job runs
# What earlier versions wrote instead of the name: the module that then held the job's `Config`.
EARLIER_NAMES = {
    "tools.shard": "shard",
    "tools.train_autoencoder": "train-autoencoder",
    "tools.encode": "encode",
    "tools.train": "train",
    "tools.sample": "sample",
    "tools.evaluate": "evaluate",
    "tools.digits": "digits",
    "launch.demo": "demo",
}


class JobConfig(Protocol):
    """The config of a job that has an output.  job: its name in `launch/jobs.py`."""

    job: ClassVar[str]

    @property
    def overwrite(self) -> bool: ...


Keeping = Callable[[Any, Mapping[str, Any]], Any]
"""Of a job's config and an earlier record of it, the config to record from here on."""


def claim(
    output: Path,
    config: JobConfig,
    *,
    done: str,
    overwrite: bool,
    may_grow: Collection[str] = (),
    contents: Contents = nothing_recorded,
    made: Callable[[], str] | None = None,
    keeping: Keeping = lambda config, _: config,
) -> Literal["new", "continue", "finished"]:
    """Take `output` for the job that `config` describes; one process of a job calls this, before all work.

    done: the file, inside `output`, that makes it complete. The first claim writes `config.yaml`.
    overwrite: remove what an earlier claim left, finished or not, and start anew.
    may_grow: paths of numbers that may be larger now: the output is continued, even if it was finished.
    contents: of places that have moved.  made: says what overwriting would cost; the default counts files.
    keeping: of the config and the record, what is recorded where a place has moved or a number has grown.
    Raises UserError where the folder is not of this job, or was made from another config. What may differ
    stands at each field (`core.config.settings.Role`).
    """
    if output.exists() and not output.is_dir():
        raise UserError("output", output, "a folder, and this is a file")
    is_empty = _is_empty(output)
    if is_empty and write_text_once(output / CONFIG, _recorded(config)):
        return "new"
    _require_ours(output, config)
    if overwrite and not is_empty:  # else another process was faster, and its config is the one that counts
        _remove_contents(output, done)
        return _start(output, config)
    recorded = read_recorded(output / CONFIG)
    found = changes(recorded, config)
    require_same(output, found, may_grow, contents, made or partial(holds, output), _another(config, output))
    grown = any(change.path in may_grow for change in found)
    if grown:
        (output / done).unlink(missing_ok=True)  # first: killed here, the same command gets here again
    moved = [change for change in found if change.role == "place"]
    if grown or moved:
        _start(output, keeping(config, recorded))
    for path, before, now, _ in moved:
        say(f"{output}: {path} is {shown(now)} now, and was {shown(before)}; {CONFIG} says so from here on")
    return "finished" if (output / done).exists() else "continue"


def claim_run(
    output: Path,
    config: JobConfig,
    *,
    done: str,
    may_grow: Collection[str] = (),
    contents: Contents = nothing_recorded,
    made: Callable[[], str] | None = None,
    keeping: Keeping = lambda config, _: config,
) -> bool:
    """Claim a run's folder for training, which may be restarted unchanged; return False if it is finished.

    So `overwrite` counts at the first start alone: a restart by torchrun or SLURM continues, unless another
    job than this began the run, since the first start died before it came here. A config that failed before
    its first step (it asked for what is not here) may be corrected. WorkError while another process on this
    host writes there.
    """
    lock = RunLock(output)
    lock.require_free()
    overwrite = config.overwrite and (not environment.restarts() or lock.begun_by_another())
    known: dict[str, Any] = {"done": done, "may_grow": may_grow, "contents": contents, "made": made}
    known["keeping"] = keeping
    try:
        state = claim(output, config, overwrite=overwrite, **known)
    except UserError:
        if has_begun(output, done):
            raise
        state = claim(output, config, overwrite=True, **known)
    if state == "finished":
        require_same_contents(output, config, contents, made or partial(holds, output))
        lengthens = f"a larger {' or '.join(may_grow)} lengthens it; " if may_grow else ""
        cost = made() if made else holds(output)
        say(f"{output} is finished; {lengthens}overwrite=true would start over and remove {cost}")
        return False
    if config.overwrite:
        how = "starts over" if overwrite else "continues, since this is a restart"
        say(f"{output}: the run {how}; to continue it by hand later, leave overwrite=true out")
    return True


def job_of(output: Path) -> str | None:
    """Return the name of the job whose output this is, by its `config.yaml`; None where that does not say."""
    recorded = output / CONFIG
    if not recorded.is_file():
        return None
    first = read_head(recorded, LONGEST_NAME).decode("utf-8", "replace").partition("\n")[0]
    name = first.removeprefix(HEADER)
    return EARLIER_NAMES.get(name, name) if first.startswith(HEADER) else None


def begun_with(given: Mapping[str, Any], schema: type[JobConfig], path: str) -> dict[str, Any]:
    """Return a field, nested, as the output that a command continues was begun with; {} where none is.

    For fields whose default was another in earlier versions, or that these did not have and that say what a
    record without them stands for.  given: what the command names, nested.
    """
    output, overwrites = given.get("output"), str(given.get("overwrite", False)).lower()
    folder = Path(str(output)).expanduser() if output else None
    if folder is None or overwrites != "false" or job_of(folder) != schema.job:
        return {}
    found: Any = read_recorded(folder / CONFIG)
    names = path.split(".")
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            return earlier_layer(schema, path)
        found = found[name]
    return under(names, found)


def has_begun(output: Path, done: str) -> bool:
    """Return whether a run has done steps here, and not only set up its folder."""
    traces = (output / done, output / METRICS, *published(output / CHECKPOINTS))
    return any(path.exists() for path in traces)


def _start(output: Path, config: JobConfig) -> Literal["new"]:
    """Write the record."""
    write_text(output / CONFIG, _recorded(config))
    return "new"


def _recorded(config: JobConfig) -> str:
    """Write the record. It never says overwrite=true, so a command that is given it as a file continues."""
    kept: Any = dataclasses.replace(cast(Any, config), overwrite=False)
    return f"{HEADER}{config.job}\n{dump(kept)}"


def _is_empty(output: Path) -> bool:
    """Return whether only temporary files of a killed claim are there, and what started the job."""
    return all(_is_launchers(entry) for entry in published(output))


def _is_launchers(entry: Path) -> bool:
    """Return whether the launcher left this: the job's submission, or the ranks' rendezvous."""
    return entry.name == SUBMISSIONS or entry.name.startswith(MEETING_PREFIX)


def _require_ours(output: Path, config: JobConfig) -> None:
    """Raise UserError unless `config.yaml` says that this is an output of the same job."""
    if (job := job_of(output)) is None:
        raise UserError("output", output, "a new or empty folder, or an earlier output of this job")
    if job != config.job:
        raise UserError("output", output, f"an output of {config.job}, and this is one of {job}")


def require_same_settings(output: Path, config: JobConfig, may_grow: Collection[str] = ()) -> None:
    """Raise UserError where an output was made by another job or with other settings that decide its result.

    Reads the record alone: for whoever queues a job that claims the output later, and compares places then.
    """
    if config.overwrite or not (output / CONFIG).is_file():
        return
    _require_ours(output, config)
    found = [each for each in changes(read_recorded(output / CONFIG), config) if each.role == "result"]
    require_same(output, found, may_grow, nothing_recorded, partial(holds, output), _another(config, output))


def _another(config: JobConfig, output: Path) -> str:
    """Name the other output that a refused command may take: for a run, one that starts from its weights."""
    begins = any(field.name == INITIAL_FIELD for field in dataclasses.fields(cast(Any, config)))
    return (
        f"output=NEW {INITIAL_FIELD}={output}, a new run that starts from its weights"
        if begins
        else "another output"
    )


def _remove_contents(output: Path, done: str) -> None:
    """Remove the manifest first and what says whose it is last: killed half-way, it is neither complete nor
    foreign, nor taken for a run that a restart goes on with."""
    (output / done).unlink(missing_ok=True)
    last = [output / LOCK, output / CONFIG]
    for entry in (*published(output), *temporaries(output)):
        if _is_launchers(entry):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry not in last:
            entry.unlink()
    for path in last:
        path.unlink(missing_ok=True)
