"""The environments of all launchers, as they really are, and which are refused.

Run: pytest tests/core/test_environment.py
"""

from __future__ import annotations

import os

import pytest

from core import environment
from core.environment import Place
from core.errors import UserError

# Recorded in a task of `srun` and in a batch script (SLURM 22.05, two nodes of two tasks).
TASK = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_CPUS_ON_NODE": "8",
    "SLURMD_NODENAME": "n1",
}
BATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURM_CPUS_ON_NODE": "8",
}


@pytest.fixture(autouse=True)
def _started_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = environment.without_launcher(os.environ)
    for name in set(os.environ) - set(kept) | {"OMP_NUM_THREADS"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def given(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "expected", "is_rank"),
    [
        ({}, Place("alone"), False),
        (TASK, Place("srun", 3, 4, 1, 2), True),
        (BATCH, Place("alone"), False),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Place("by hand", 1, 2, 1, 1), True),
        ({"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}, Place("torchrun"), True),
        ({"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2"}, Place("submitit", 1, 2, 1, 2), True),
        ({"SUBMITIT_LOCAL_GLOBALID": "0", "SUBMITIT_LOCAL_NTASKS": "1"}, Place("submitit"), False),
    ],
)
def test_who_started_us(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Place, is_rank: bool
) -> None:
    given(monkeypatch, variables)
    assert environment.place() == expected
    assert (environment.is_rank(), environment.has_peers()) == (is_rank, is_rank or expected.size > 1)


def test_ranks_that_a_task_starts_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """`srun -n1 longtake train processes=2`: the task is alone, and its children are ranks."""
    one = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_CPUS_PER_TASK": "4"}
    one |= {name: "1" for name in TASK if re_tasks(name)}
    given(monkeypatch, {**TASK, **one})
    assert environment.place() == Place("srun")
    assert not environment.is_rank()
    given(monkeypatch, environment.of_local_rank(1, 2, 1234))
    assert environment.place() == Place("local", 1, 2, 1, 2)
    assert os.environ["OMP_NUM_THREADS"] == "2"


def re_tasks(name: str) -> bool:
    return "TASKS" in name or "NODES" in name


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"SLURM_STEP_TASKS_PER_NODE": "3,1"},
            "SLURM_NTASKS=4: expected nodes × tasks per node, and here are 2 nodes with 3,1 tasks",
        ),
        # A job of four nodes that was requeued, and shrunk to fewer.
        (
            {"SLURM_NTASKS_PER_NODE": "1"},
            "SLURM_NTASKS=4: expected nodes × tasks per node, and here are 2 nodes with 1 asked for and 2(x2)"
            " tasks",
        ),
    ],
)
def test_uneven_tasks_are_refused(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], message: str
) -> None:
    given(monkeypatch, {**TASK, **changed})
    with pytest.raises(UserError) as caught:
        environment.place()
    assert str(caught.value) == message


def test_what_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {"RANK": "first", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="RANK=first: expected a whole number in the environment"):
        environment.place()


def test_threads_are_the_least_of_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.threads() == 16
    given(monkeypatch, BATCH)
    assert environment.threads() == 8
    given(monkeypatch, TASK)
    assert environment.threads() == 4  # two tasks share the 8 of their node
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert environment.threads() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 6}, raising=False)
    assert environment.threads() == 2


def test_names_of_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (environment.attempt(), environment.meeting(), environment.restarts()) == (None, None, 0)
    assert environment.launch() == "local"
    given(monkeypatch, {**TASK, "SLURM_RESTART_COUNT": "2"})
    assert (environment.attempt(), environment.meeting(), environment.restarts()) == ("7.2", "7.2.0", 2)
    assert (environment.launch(), environment.node()) == ("slurm 7", "n1")
    given(monkeypatch, {"SLURM_JOB_END_TIME": "1700000000"})
    assert environment.end_time() == 1700000000
    given(monkeypatch, {environment.END_TIME: "1700000100.5"})
    assert environment.end_time() == 1700000100.5


def test_a_process_can_be_started_as_if_by_nobody() -> None:
    mixed = {**TASK, "RANK": "0", "MASTER_PORT": "1", "SUBMITIT_EXECUTOR": "slurm", "PATH": "/bin"}
    assert environment.without_launcher(mixed) == {"SLURMD_NODENAME": "n1", "PATH": "/bin"}


def test_libraries_are_told_the_device_in_the_place_of_the_local_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    with environment.local_rank_by_device(0):
        assert os.environ["LOCAL_RANK"] == "0"
    assert os.environ["LOCAL_RANK"] == "3"
    with environment.local_rank_by_device(None):
        assert os.environ["LOCAL_RANK"] == "3"
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(ZeroDivisionError), environment.local_rank_by_device(1):
        raise ZeroDivisionError
    assert "LOCAL_RANK" not in os.environ
