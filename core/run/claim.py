"""Whose folder this is: a job claims its output before it writes, so that nothing foreign is overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from core import environment
from core.config.loading import difference, dump, read_yaml, to_dict, with_defaults
from core.errors import UserError
from core.files import MEETING_PREFIX, TEMPORARY_PREFIX, write_text
from core.progress import say
from core.run import run_lock
from core.run.run_lock import RunLock

CONFIG_NAME = "config.yaml"
SUBMISSIONS = "submissions"  # in an output: what `submit` keeps there, and the code that the job runs
HEADER = "# longtake: the resolved config of "  # and then the job's name
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

# They say how a run is carried out or watched, not what it makes; `output` is the folder itself.
NOT_COMPARED = ("output", "overwrite", "processes", "action", "queue", "require_space")
# The same at any depth: how much may go wrong, and how fast or how safely the work goes.
NOT_COMPARED_NAMES = (
    *("quarantine_budget", "prefetch", "decode_threads", "wandb", "wandb_project", "check_every"),
    *("max_skipped", "on_skipped", "max_rollbacks"),  # so that a run that stopped can be told to go back
    *("save_every", "keep_last", "keep_every", "max_failed_saves", "save_async", "save_spread"),
)
NOT_COMPARED_PREFIXES = ("log_", "progress_", "watchdog_", "profile_")
# How ranks share the work of training; a checkpoint fits every way.
NOT_COMPARED_ENGINE = tuple(
    f"engine.{name}"
    for name in (
        *("zero_stage", "sequence_parallel", "micro_batch", "activation_checkpointing", "checkpoint_every"),
        *("compile", "device", "timeout_s"),
    )
)


class JobConfig(Protocol):
    """The config of a job that has an output.  job: the name by which `launch/jobs.py` lists it."""

    job: ClassVar[str]

    @property
    def overwrite(self) -> bool: ...


def claim(
    output: Path,
    config: JobConfig,
    *,
    done: str,
    overwrite: bool,
    may_grow: Collection[str] = (),
    may_differ: Collection[str] = (),
) -> Literal["new", "continue", "finished"]:
    """Take `output` for the job that `config` describes; one process of a job calls this, before all work.

    done: the file, inside `output`, that makes it complete. The first claim writes `config.yaml`.
    overwrite: remove what an earlier claim left, finished or not, and start anew.
    may_grow: paths of numbers that may be larger now: the output is continued, even if it was finished.
    may_differ: paths of fields that say how this job is carried out, not what it makes.
    Raises UserError where the folder is not of this job, or was made from another config.
    """
    if output.exists() and not output.is_dir():
        raise UserError("output", output, "a folder, and this is a file")
    if _is_empty(output):
        return _start(output, config)
    _require_ours(output, config)
    if overwrite:
        _remove_contents(output, done)
        return _start(output, config)
    if _require_same(output, config, may_grow, may_differ):
        (output / done).unlink(missing_ok=True)  # first: killed here, the same command comes to it again
        _start(output, config)
    return "finished" if (output / done).exists() else "continue"


def claim_run(output: Path, config: JobConfig, *, done: str, may_grow: Collection[str] = ()) -> bool:
    """`claim` for training, which is killed and started again with the same words; False if it is finished.

    So `overwrite` counts at the first start alone: what torchrun or SLURM starts again continues, unless
    another job than this began the run, since the first start died before it came here. A config that failed
    before its first step (it asked for what is not here) may be corrected. WorkError while another process on
    this host writes there.
    """
    lock = RunLock(output)
    lock.require_free()
    overwrite = config.overwrite and (not environment.restarts() or lock.begun_by_another())
    try:
        state = claim(output, config, done=done, overwrite=overwrite, may_grow=may_grow)
    except UserError:
        if _has_begun(output, done):
            raise
        state = claim(output, config, done=done, overwrite=True)
    if state == "finished":
        lengthens = f"a larger {' or '.join(may_grow)} lengthens it, " if may_grow else ""
        say(f"{output} is finished; {lengthens}overwrite=true begins anew")
        return False
    if config.overwrite:
        how = "begins anew" if overwrite else "continues, since this is a restart"
        say(f"{output}: the run {how}; to continue it by hand later, leave overwrite=true out")
    return True


def _has_begun(output: Path, done: str) -> bool:
    """Whether a run has done steps here, and not only set up its folder."""
    traces = (output / done, output / "metrics.jsonl", *(output / "checkpoints").glob("*"))
    return any(path.exists() for path in traces)


def _start(output: Path, config: JobConfig) -> Literal["new"]:
    write_text(output / CONFIG_NAME, f"{HEADER}{config.job}\n{dump(config)}")
    return "new"


def _is_empty(output: Path) -> bool:
    """A claim that was killed may have left a temporary file; what started the job comes before it."""
    return not output.exists() or all(
        entry.name.startswith(TEMPORARY_PREFIX) or _is_launchers(entry) for entry in output.iterdir()
    )


def _is_launchers(entry: Path) -> bool:
    """Whether this is what the job was started by: its submission, or where its ranks meet."""
    return entry.name == SUBMISSIONS or entry.name.startswith(MEETING_PREFIX)


def _require_ours(output: Path, config: JobConfig) -> None:
    """UserError unless `config.yaml` says that this is an output of the same job."""
    recorded = output / CONFIG_NAME
    text = recorded.read_text(encoding="utf-8", errors="replace") if recorded.is_file() else ""
    first = text.partition("\n")[0]
    if not first.startswith(HEADER):
        raise UserError("output", output, "a new or empty folder, or an earlier output of this job")
    name = first.removeprefix(HEADER)
    job = EARLIER_NAMES.get(name, name)
    if job != config.job:
        raise UserError("output", output, f"an output of {config.job}, and this is one of {job}")


def _require_same(
    output: Path, config: JobConfig, may_grow: Collection[str], may_differ: Collection[str]
) -> bool:
    """UserError where the record says otherwise; whether a number of `may_grow` has grown."""
    grown = False
    # A field that an earlier version did not have was, in effect, what its default is today.
    recorded = with_defaults(read_yaml(output / CONFIG_NAME), type(config))
    for path, before, now in difference(recorded, to_dict(config)):
        name = path.rpartition(".")[2]
        if path.partition(".")[0] in NOT_COMPARED or path in NOT_COMPARED_ENGINE or path in may_differ:
            continue
        if name in NOT_COMPARED_NAMES or name.startswith(NOT_COMPARED_PREFIXES):
            continue
        if path in may_grow and now > before:
            grown = True
            continue
        least = " or more" if path in may_grow else ""
        raise UserError(
            path, now, f"{before}{least}, with which {output} was made; or overwrite=true, or another output"
        )
    return grown


def _remove_contents(output: Path, done: str) -> None:
    """Remove the manifest first and what says whose it is last: killed half-way, it is neither complete nor
    foreign, nor taken for a run that a restart goes on with."""
    (output / done).unlink(missing_ok=True)
    last = [output / run_lock.NAME, output / CONFIG_NAME]
    for entry in output.iterdir():
        if _is_launchers(entry):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry not in last:
            entry.unlink()
    for path in last:
        path.unlink(missing_ok=True)
