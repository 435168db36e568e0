"""Submit a job: to SLURM, or to this machine in the background or foreground.

`longtake submit JOB my.yaml configs/cluster/NAME.yaml cluster.nodes=4`: the words of the job itself, with the
section `cluster` added, and `after=` the output of an earlier job, or a SLURM job number, that has to succeed
first. `longtake submit RUN cluster.nodes=2` resubmits what was submitted with this output, and replaces a job
that is still queued or running.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import terminal
from core.config import loading
from core.config.fields import describe
from core.config.settings import setting
from core.errors import UserError
from core.faults.failpoints import failpoint
from core.progress import say
from core.run.claim import SUBMISSIONS, require_same_settings
from launch import arguments, jobs
from launch.cluster import records, slurm
from launch.cluster.config import ClusterConfig, refuse_clock_times
from launch.cluster.earlier import make_room, queue_name
from launch.cluster.fitting import require_fit
from launch.cluster.records import JOB_FILE, Submission
from launch.cluster.snapshot import copy_code
from launch.cluster.supervisor import Supervise, supervise
from launch.help import fields_text
from launch.jobs import Job

LEAST_FREE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Target:
    """The fields of a submission beside the job's own."""

    cluster: ClusterConfig = setting(ClusterConfig(), "where and how the job runs")
    after: str = setting("", "output of a submitted job, or a SLURM job, that has to succeed first")
    force: bool = setting(False, "submit a run even if it would not fit its GPUs (`longtake plan`)")


def main(words: Sequence[str]) -> int:
    """Run `longtake submit WORDS`."""
    named = _with_job(words)
    typed = arguments.parse(named, jobs.SEVERAL)
    if typed.help or not typed.job:
        terminal.deliver(_help())
        return 0
    job = jobs.find(typed.job)
    refuse_clock_times(typed.files)
    settings = loading.load(_schema(job), typed.files, typed.overrides)
    config, cluster = _parted(job, settings)
    output = Path(config.output).absolute()
    after = _after(settings.after, cluster, output)
    for line in _plan(job, config, cluster, wait=bool(settings.after)):
        say(line)
    if not (settings.force or settings.after):
        for line in require_fit(job.name, config, cluster):
            say(line)
    if typed.dry_run:
        terminal.deliver(loading.dump(settings), end="")
        terminal.deliver(_script(output, cluster, after))
        return 0
    if cluster.kind == "slurm":
        slurm.require(cluster)
    with records.locked(output):
        if not cluster.array:  # tasks of an array join those that are at work
            make_room(output, cluster, replaces=named != list(words))
        submission = _prepare(job, config, cluster, output, settings.after)
        return _start(submission, cluster, after)


def _with_job(words: Sequence[str]) -> list[str]:
    """Return the words of a submission; `RUN ...` stands for what was submitted with this output before."""
    bare = next((word for word in words if not word.startswith("-")), "")
    folder = Path(bare)
    if not bare or "=" in bare or not (folder / SUBMISSIONS).is_dir():
        return list(words)
    latest = records.latest(folder)
    record = latest.read()
    rest = list(words)
    rest.remove(bare)
    return [record["job"], str(latest.folder / JOB_FILE), str(latest.folder / "cluster.yaml"), *rest]


def _schema(job: Job) -> type[Any]:
    """Return the job's own config, extended by the fields of a submission."""
    bases = (job.load().Config, Target)
    return dataclasses.make_dataclass("Submitted", [], bases=bases, frozen=True, kw_only=True)


def _parted(job: Job, settings: Any) -> tuple[Any, ClusterConfig]:
    """Return the job's config and the cluster section; ranks are counted by the latter."""
    kind, cluster = job.load().Config, settings.cluster
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind)}
    if not values.get("output"):
        raise UserError("output", repr(values.get("output")), "a folder, where the submission is kept")
    if job.on_ranks:
        values["processes"] = cluster.world_size
    elif cluster.world_size > 1 and not job.shares:
        raise UserError("cluster.nodes", cluster.nodes, f"one task, since {job.name} runs in one process")
    if cluster.array and not job.shares:
        reason = f"{job.name} does not share its work through its output"
        raise UserError("cluster.array", cluster.array, f"0, since {reason}")
    if cluster.array and values.get("overwrite"):
        raise UserError("overwrite", "true", "false, since tasks of an array would remove each other's work")
    return kind(**values), cluster


def _plan(job: Job, config: Any, cluster: ClusterConfig, *, wait: bool) -> list[str]:
    """Return what the job would do, if that can be known now, and in any case the disk space."""
    place = next(
        path for path in (Path(config.output), *Path(config.output).absolute().parents) if path.exists()
    )
    if not place.is_dir():
        raise UserError("output", config.output, "a folder, and this is a file")
    if not os.access(place, os.W_OK):
        raise UserError("output", config.output, f"a folder that can be written, and {place} cannot")
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE_BYTES:
        raise UserError(
            "output", config.output, f"at least 1 GiB of free disk, and {place} has {free >> 20} MiB"
        )
    if job.on_ranks and not job.shares:  # else it is told only once the job has come out of the queue
        require_same_settings(Path(config.output), config, job.may_grow(config))
    return [] if wait else [f"# {line}" for line in job.load().plan(config)]


def _after(text: str, cluster: ClusterConfig, output: Path) -> list[str]:
    """Return SLURM's numbers of the jobs that must end well before this one."""
    if not text:
        return []
    if not text.isdigit() and Path(text).absolute() == output:
        raise UserError("after", text, "another output than the job's own")
    if cluster.kind != "slurm":
        if text.isdigit() or records.latest(Path(text)).read()["cluster"].get("kind") == "slurm":
            expected = f"the output of a job submitted to this machine with cluster.kind={cluster.kind}"
            raise UserError("after", text, expected)
        return []
    job = text if text.isdigit() else records.latest(Path(text)).read().get("slurm_job")
    if not job:
        raise UserError("after", text, "the output of a job that was submitted to SLURM")
    return [str(job)]


def _prepare(job: Job, config: Any, cluster: ClusterConfig, output: Path, after: str) -> Submission:
    """Prepare everything that the job needs, in a new folder."""
    submission = records.new_submission(output)
    copy_code(submission.code)
    failpoint("submit.copied")
    loading.save(config, submission.folder / JOB_FILE)
    (submission.folder / "cluster.yaml").write_text(_cluster_file(cluster), encoding="utf-8")
    submission.write(
        job=job.name,
        cluster=loading.to_dict(cluster),
        cwd=str(Path.cwd()),
        after_output=after if cluster.kind != "slurm" else "",
        name=queue_name(output),
    )
    failpoint("submit.written")
    return submission


def _start(submission: Submission, cluster: ClusterConfig, after: Sequence[str]) -> int:
    """Queue the job, or run it here."""
    records.remember(submission.output)
    folder, logs = submission.folder / "submitit", submission.folder / "attempts"
    if cluster.kind == "inline":
        return supervise(submission)
    function = Supervise(str(submission.folder))
    if cluster.kind == "local":
        os.environ.update(PYTHONSAFEPATH="1", PYTHONPATH=_path_of(submission))
        import submitit

        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=cluster.minutes, signal_delay_s=cluster.signal_s)
        found = [executor.submit(function, task) for task in range(max(1, cluster.array))]
        processes = ", ".join(str(job.job_id) for job in found)
        submission.write(process=processes)
        say(f"{submission.output}: process {processes}; logs in {logs}")
        return 0
    parameters = slurm.parameters(cluster, queue_name(submission.output), after, submission.code)
    job = slurm.submit(function, folder, parameters, tasks=cluster.array)
    failpoint("submit.queued")
    submission.write(slurm_job=job)
    say(f"{submission.output}: job {job}{_tasks(cluster)}; logs in {logs}")
    return 0


def _tasks(cluster: ClusterConfig) -> str:
    return f", an array of {cluster.array} tasks" if cluster.array else ""


def _path_of(submission: Submission) -> str:
    return os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH")]))


def _script(output: Path, cluster: ClusterConfig, after: Sequence[str]) -> str:
    """Return the batch script of the next submission."""
    if cluster.kind != "slurm":
        return f"# cluster.kind={cluster.kind}: no batch script"
    folder = output / SUBMISSIONS / "NNNN"
    found = slurm.parameters(cluster, queue_name(output), after, folder / "code")
    return slurm.script_text(folder / "submitit", found)


def _cluster_file(cluster: ClusterConfig) -> str:
    lines = loading.dump(cluster).splitlines()
    return "cluster:\n" + "".join(f"  {line}\n" for line in lines)


def _help() -> str:
    usage = "longtake submit JOB [FILE.yaml ...] [SOURCE] [field=value ...] [after=RUN|JOB] [--dry-run]"
    text, own = inspect.getdoc(sys.modules[__name__]) or "", fields_text(describe(Target))
    return "\n".join([f"usage: {usage}", "", *text.splitlines(), "", "fields:", *own])
