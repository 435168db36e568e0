"""How this process was started: the only reader of the environment variables of launchers.

Launchers are our own (`processes=N`), torchrun, SLURM's `srun` and submitit's local executor; RANK and
WORLD_SIZE set by hand are taken too. This module lies below all rooms, since the lowest of them use it: who
logs, which rank a fault is meant for. Nothing is kept between calls, as tests and workers change their
environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from core.errors import UserError

PARENT = "LONGTAKE_PARENT"  # process id of our launcher, for its ranks
RESTARTS = "LONGTAKE_RESTARTS"  # how often our supervisor has started the ranks again, where SLURM does not
PREFLIGHT = "LONGTAKE_PREFLIGHT"  # set where our supervisor wants nodes to be looked over before training
END_TIME = "LONGTAKE_END_TIME"  # when the scheduler will end the job, in seconds since 1970

Starter = Literal["alone", "local", "torchrun", "srun", "submitit", "by hand"]


@dataclass(frozen=True)
class Place:
    """This process's rank among how many, and the launcher that started it.

    local_rank, local_size: the same on this node.
    """

    starter: Starter
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_rank(self) -> bool:
        """Return whether a launcher started this process as one of several, so that it starts none itself."""
        return self.starter in ("local", "torchrun", "by hand") or self.size > 1


def place() -> Place:
    """Return this process's place; UserError where the launcher's variables contradict one another."""
    environ = os.environ
    if "RANK" in environ or "WORLD_SIZE" in environ:
        starter: Starter = "by hand"
        if PARENT in environ:
            starter = "local"
        elif "TORCHELASTIC_RUN_ID" in environ:
            starter = "torchrun"
        mine = _number("RANK", 0)
        local = _number("LOCAL_RANK", mine)
        return Place(starter, mine, _number("WORLD_SIZE", 1), local, _number("LOCAL_WORLD_SIZE", 1))
    if is_step():  # a batch script has SLURM_PROCID too, and is no task
        return _slurm_place()
    if "SUBMITIT_LOCAL_GLOBALID" in environ:
        size = _number("SUBMITIT_LOCAL_NTASKS", 1)
        mine = _number("SUBMITIT_LOCAL_GLOBALID", 0)
        return Place("submitit", mine, size, _number("SUBMITIT_LOCAL_LOCALID", mine), size)
    return Place("alone")


def ranks_on_node(ranks: int) -> int:
    """Return how many of a job's ranks share this node; all of them where a node has one."""
    found = place().local_size
    return found if 1 < found <= ranks else ranks


def rank() -> int:
    """Return this process's rank, 0 for a single process."""
    return place().rank


def is_rank() -> bool:
    """Return whether a launcher (our own, torchrun, srun) has started this process as one of several."""
    return place().is_rank


def is_step() -> bool:
    """Return whether `srun` started this process."""
    return "SLURM_STEP_ID" in os.environ


def has_peers() -> bool:
    """Return `is_rank` without checking that the launcher's variables fit together."""
    tasks = "SLURM_STEP_NUM_TASKS" if is_step() else "SUBMITIT_LOCAL_NTASKS"
    return bool({"RANK", "WORLD_SIZE"} & set(os.environ)) or os.environ.get(tasks, "1") != "1"


def node() -> str:
    """Return the name of this node; SLURM's before the host's, which several of its nodes may share."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def nodes() -> str:
    """Return the nodes of this job, as SLURM writes them; this node outside of SLURM."""
    return os.environ.get("SLURM_JOB_NODELIST") or node()


def slurm_job() -> str | None:
    """Return the number of the SLURM job that this process is part of."""
    return os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """Return how often the launcher has started this command before: after a failure, or a requeue."""
    names = (RESTARTS, "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return max(_number(name, 0) for name in names)


def attempt() -> str | None:
    """Return `JOB.RESTART` of a SLURM job, which names one start of it; None outside of SLURM."""
    job = slurm_job()
    return f"{job}.{_number('SLURM_RESTART_COUNT', 0)}" if job else None


def launch() -> str | None:
    """Return what stays the same when a launcher reruns its command: SLURM's job, or torchrun's run.

    None for torchrun without `--standalone` or `--rdzv-id`, which names no run.
    """
    if job := slurm_job():
        return f"slurm {job}"
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return "local" if run is None else None if run == "none" else f"torchrun {run}"


def meeting() -> str | None:
    """Return the name shared only by tasks started together; None where it is not known."""
    if is_step():
        return f"{attempt()}.{os.environ['SLURM_STEP_ID']}"
    job = os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    return f"submitit-{job}" if job else None


def master() -> tuple[str, int]:
    """Return MASTER_ADDR and MASTER_PORT as set by the user; '' and 0 where they are not set."""
    return os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT", 0)


def end_time() -> float | None:
    """Return when the scheduler will end this job, in seconds since 1970; None where that is not known."""
    for name in (END_TIME, "SLURM_JOB_END_TIME"):
        if text := os.environ.get(name):
            return float(text)
    return None


def wants_preflight() -> bool:
    """Return whether our supervisor wants a preflight check of the nodes before training."""
    return bool(os.environ.get(PREFLIGHT))


def threads() -> int:
    """Return how many threads this process may compute in: the least of affinity and SLURM, at least 1.

    SLURM without a task plugin that binds lets a task of one CPU see all cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = [cores]
    if per_task := _number("SLURM_CPUS_PER_TASK", 0):
        allowed.append(per_task)
    if on_node := _number("SLURM_CPUS_ON_NODE", 0):
        allowed.append(on_node // (_slurm_place().local_size if is_step() else 1))
    return max(1, min(allowed))


def local_rank_for_libraries() -> None:
    """Set LOCAL_RANK where it is not set: DeepSpeed reads it."""
    os.environ.setdefault("LOCAL_RANK", str(place().local_rank))


@contextlib.contextmanager
def local_rank_by_device(index: int | None) -> Iterator[None]:
    """Have LOCAL_RANK be the number of this process's device within the block; None leaves it.

    DeepSpeed takes the one for the other. Where each task sees its own device alone (SLURM's
    `--gpus-per-task=1`) that is 0 on every rank, and the device of the local rank's number is not there.
    """
    before = os.environ.get("LOCAL_RANK")
    if index is not None:
        os.environ["LOCAL_RANK"] = str(index)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("LOCAL_RANK", None)
        else:
            os.environ["LOCAL_RANK"] = before


def become_worker(number: int) -> None:
    """Record which worker process of a job this is: only the first one logs."""
    os.environ["RANK"] = str(number)


def without_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that is to be alone, whoever started this one."""
    named = re.compile(r"(LOCAL_|GROUP_)?(RANK|WORLD_SIZE)|(MASTER_|TORCHELASTIC_|SLURM_|SUBMITIT_).*")
    return {name: value for name, value in environ.items() if not named.fullmatch(name)}


def of_local_rank(number: int, processes: int, port: int) -> dict[str, str]:
    """Return the environment of one of our launcher's ranks: torch's `env://`, with the launcher's store."""
    return {
        "OMP_NUM_THREADS": str(max(1, threads() // processes)),
        **os.environ,
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        PARENT: str(os.getpid()),
    }


def is_last_torchrun_attempt() -> bool:
    """Return whether this is a node's first rank, under a torchrun that will not start the ranks again."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or PARENT in os.environ:
        return False
    count, most = _number("TORCHELASTIC_RESTART_COUNT", 0), _number("TORCHELASTIC_MAX_RESTARTS", 0)
    return os.environ.get("LOCAL_RANK") == "0" and count >= most


def _slurm_place() -> Place:
    """Return the place of a task of `srun`; UserError unless every node has as many tasks.

    A job that was requeued and shrunk keeps the SLURM_NTASKS of its first start, and its ranks would not be
    one on each GPU.
    """
    size = _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS", 1))
    nodes = _number("SLURM_STEP_NUM_NODES", _number("SLURM_NNODES", 1))
    shown = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE") or "1"
    tasks = _expanded(shown)
    asked = _number("SLURM_NTASKS_PER_NODE", 0)
    if size > 1 and (len({*tasks, *([asked] if asked else [])}) > 1 or sum(tasks) != size):
        each = f"{asked} asked for and {shown}" if asked and len(set(tasks)) == 1 else shown
        raise UserError(
            "SLURM_NTASKS", size, f"nodes × tasks per node, and here are {nodes} nodes with {each} tasks"
        )
    return Place("srun", _number("SLURM_PROCID", 0), size, _number("SLURM_LOCALID", 0), tasks[0])


def _expanded(text: str) -> list[int]:
    """Expand SLURM's `2(x3),1` to [2, 2, 2, 1]."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))] or [1]


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise UserError(name, text, "a whole number in the environment") from None
