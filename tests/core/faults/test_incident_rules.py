"""The counts and decisions of incidents, alone. Run: pytest tests/core/faults/test_incident_rules.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.distributed.ranks import World
from core.errors import WorkError
from core.faults import failpoints
from core.faults.incidents import IncidentConfig, Incidents, _step_of
from core.faults.nonfinite import MAX_RANKS
from core.records import read_rows

CULPRITS: list[dict[str, Any]] = [
    {"rank": 1, "module": "first", "pass": "forward", "samples": [{"id": n, "decile": 0} for n in range(6)]}
]
LATER = {"step": 3, "skipped": 1, "passed_over": [2], "skipped_in_a_row": 0, "log_norm": [0, 0.0, 0.0]}


def incidents(folder: Path, *networks: str, rank: int = 0, **config: Any) -> Incidents:
    world = World(rank, 1, 0, torch.device("cpu"))
    clipping = dict.fromkeys(networks or ("",), 1.0)
    return Incidents(folder, IncidentConfig(**{"max_skipped": 3, **config}), clipping, world)


def opened(folder: Path, *networks: str, state: dict[str, Any] | None = None, **config: Any) -> Incidents:
    made = incidents(folder, *networks, **config)
    made.open(state)
    return made


def test_skipped_steps_count_in_a_row_and_in_all(tmp_path: Path) -> None:
    """An applied step begins the row anew; the number of all goes on."""
    made = opened(tmp_path)
    for step in (1, 2):
        made.note_skipped(step, [""], CULPRITS)
    assert (made.in_a_row, made.skipped, made.too_many) == (2, 2, False)
    made.applied(3, "", 1.0)
    assert (made.in_a_row, made.skipped, made.too_many) == (0, 2, False)
    for step in (4, 5):
        made.note_skipped(step, [""], CULPRITS)
    assert (made.in_a_row, made.skipped, made.too_many) == (2, 4, False)
    made.note_skipped(6, [""], CULPRITS)
    assert (made.in_a_row, made.skipped, made.too_many) == (3, 5, True)
    assert [row["step"] for row in read_rows(made.path)] == [1, 2, 4, 5, 6]
    state = made.state()
    assert (state["skipped"], state["skipped_in_a_row"]) == (5, 3)


def test_a_row_is_that_of_the_network_that_missed_most(tmp_path: Path) -> None:
    made = opened(tmp_path, "", "critic")
    made.note_skipped(1, ["", "critic"], CULPRITS)
    made.applied(2, "", 1.0)
    made.note_skipped(2, ["critic"], CULPRITS)
    assert (made.in_a_row, made.skipped) == (2, 2)
    made.applied(3, "critic", 1.0)
    assert made.in_a_row == 0
    state = made.state()
    assert state["skipped_in_a_row"] == state["gradients"]["critic"]["skipped_in_a_row"] == 0


def test_state_is_taken_back(tmp_path: Path) -> None:
    made = opened(tmp_path / "a", "", "critic", on_skipped="rollback")
    for step, network, norm in ((1, "", 2.0), (1, "critic", 3.0), (2, "", 4.0)):
        made.applied(step, network, norm)
    made.note_skipped(2, ["critic"], CULPRITS)
    again = opened(tmp_path / "b", "", "critic", state={"step": 2, **made.state()})
    assert again.state() == made.state()
    assert made.state()["gradients"]["critic"] != made.state()["log_norm"]
    assert "gradients" not in opened(tmp_path / "c").state()


def test_what_may_be_saved(tmp_path: Path) -> None:
    stopping, going_back = opened(tmp_path / "a"), opened(tmp_path / "b", on_skipped="rollback")
    assert stopping.may_save
    assert going_back.may_save
    for made in (stopping, going_back):
        made.note_skipped(1, [""], CULPRITS)
    assert stopping.may_save
    assert not going_back.may_save  # nothing to go back to


def test_a_rollback_passes_over_all_steps_since_and_is_counted(tmp_path: Path) -> None:
    made = opened(tmp_path, on_skipped="rollback", max_rollbacks=1)
    made.require_rollback(6)
    made.roll_back(LATER, 6)
    assert made.passed_over == {2, 4, 5, 6}
    assert (made.skipped, made.in_a_row, made.rollbacks) == (1, 0, 1)
    (row,) = read_rows(made.path)
    assert row == {"kind": "rollback", "step": 6, "first": 4, "last": 6}
    state = made.state()
    assert (state["passed_over"], state["rollbacks"]) == ([2, 4, 5, 6], 1)
    with pytest.raises(WorkError, match="up to 9 after 1 rollbacks"):
        made.require_rollback(9)
    with pytest.raises(WorkError, match=r"up to 9; see"):
        opened(tmp_path / "stops").require_rollback(9)


def test_a_start_keeps_rows_of_steps_passed_over_and_of_corruption(tmp_path: Path) -> None:
    """Other rows beyond the checkpoint come again."""
    made = opened(tmp_path, on_skipped="rollback")
    for step in (2, 5, 8):
        made.note_skipped(step, [""], CULPRITS)
    made.roll_back(LATER, 5)
    made.corrupt(9, [{"rank": 0, "what": ["weight"], "how": "differs"}])
    again = opened(tmp_path, state={**LATER, "rollbacks": 0})
    assert (again.passed_over, again.rollbacks) == ({2, 4, 5}, 1)
    kept = [(row["kind"], row["step"]) for row in read_rows(made.path)]
    assert kept == [("skipped", 2), ("skipped", 5), ("rollback", 5), ("corrupt", 9)]


def test_rollbacks_are_counted_once_by_state_and_record(tmp_path: Path) -> None:
    """The state has those before the checkpoint; an earlier version left them to the record alone."""
    made = opened(tmp_path, on_skipped="rollback")
    made.roll_back({**LATER, "step": 0}, 2)
    made.roll_back(LATER, 5)
    state = {"step": 3, **made.state(), "rollbacks": 1}
    assert opened(tmp_path, state=state).rollbacks == 2
    del state["rollbacks"]
    assert opened(tmp_path, state=state).rollbacks == 2
    assert opened(tmp_path).rollbacks == 2


def test_a_start_without_a_checkpoint_begins_at_the_first_step(tmp_path: Path) -> None:
    """Of the first step's rows one that calls it passed over stays; an earlier version counted by it."""
    made = opened(tmp_path, on_skipped="rollback")
    made.note_skipped(1, [""], CULPRITS)
    assert opened(tmp_path).skipped == 0
    assert read_rows(made.path) == []
    made = opened(tmp_path, on_skipped="rollback")
    made.roll_back({**LATER, "step": 0, "passed_over": []}, 1)
    assert opened(tmp_path, state=LATER).rollbacks == 1
    assert opened(tmp_path).passed_over == {1}


def test_a_rollback_is_recorded_before_it_can_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = opened(tmp_path, on_skipped="rollback")
    failpoints.arm("rollback.recorded:raise")
    with pytest.raises(WorkError, match="failpoint"):
        made.roll_back(LATER, 6)
    assert [row["kind"] for row in read_rows(made.path)] == ["rollback"]
    assert "warning: back to step 3; steps 4 to 6 are passed over" in capsys.readouterr().err


def test_a_corrupt_rank_ends_the_run_with_its_name(tmp_path: Path) -> None:
    found = [{"rank": 3, "what": ["weight a", "weight b"], "how": "is not what the other ranks hold"}]
    made = opened(tmp_path)
    error = made.corrupt(7, found)
    assert "rank 3: weight a, weight b is not what the other ranks hold, found before step 7" in str(error)
    assert read_rows(made.path) == [{"kind": "corrupt", "step": 7, "ranks": found}]


def test_a_spike_is_recorded_with_its_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = opened(tmp_path, "", "critic")
    for step in range(1, 101):
        made.applied(step, "critic", 1.0)
    assert not made.path.exists()
    limit = made.clipping["critic"]
    assert (made.clipping[""], limit) == (1.0, 1.0)
    made.applied(101, "critic", 50.0)
    assert "warning: step 101 had a gradient of critic of norm 50, far above" in capsys.readouterr().err
    (row,) = read_rows(made.path)
    assert row == {"kind": "spike", "step": 101, "grad_norm": 50.0, "clipped_to": limit, "network": "critic"}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({}, "first in the forward pass of first, rank 1, samples 0, 1, 2, 3)"),
        ({"network": "critic"}, "pass of first of critic, rank 1"),
        ({"module": None}, "but were when it was repeated; its samples are in"),
        ({"samples": [{"id": 7, "source": "b"}]}, "samples 7 of b)"),
    ],
)
def test_a_skipped_step_says_where_it_went_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict[str, Any], told: str
) -> None:
    opened(tmp_path).note_skipped(4, [""], [CULPRITS[0] | entry])
    said = capsys.readouterr().err
    assert "step 4 was skipped on all ranks" in said
    assert told in said


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("first", "forward pass of first, rank 0, samples 0, and on 39 other ranks)"),
        (None, "but were when it was repeated; those of 8 of 40 ranks are in "),
    ],
)
def test_a_record_does_not_grow_with_guilty_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], module: str | None, said: str
) -> None:
    of_rank = {"module": module, "pass": "forward", "of_ranks": 40}
    found = [{"rank": rank, "samples": [{"id": rank}], **of_rank} for rank in range(MAX_RANKS)]
    made = opened(tmp_path)
    made.note_skipped(3, [""], found)
    assert said in capsys.readouterr().err
    assert read_rows(made.path)[0]["culprits"] == found


def test_only_rank_0_writes(tmp_path: Path) -> None:
    made = opened(tmp_path, rank=1)
    made.note_skipped(1, [""], CULPRITS)
    assert (made.skipped, made.path.exists()) == (1, False)


def test_a_tracker_that_ended_is_recorded(tmp_path: Path) -> None:
    made = opened(tmp_path)
    made.tracker_failed(4, "wandb", "ended with status 1")
    assert [{k: row[k] for k in ("kind", "step", "tracker", "reason")} for row in read_rows(made.path)] == [
        {"kind": "tracker", "step": 4, "tracker": "wandb", "reason": "ended with status 1"}
    ]


def test_a_rollback_must_say_its_steps() -> None:
    for step in (0, 1, 2**63 - 1):
        assert _step_of({"first": step}, "first") == step
    for wrong in (-1, 2**63, True, 1.0, "1", None):
        with pytest.raises(WorkError, match="a rollback after step 3 does not say its first step"):
            _step_of({"step": 3, "first": wrong}, "first")
