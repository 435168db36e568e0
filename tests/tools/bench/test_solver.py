"""The measurement of solvers: floors of their errors hold, and steps are timed beside those of diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.diffusion.solvers.kinds import KINDS
from launch import cli
from tools.bench.scheduler_peers import PEERS
from tools.bench.solver import COMPARED, GRID_COUNTS, PLAIN_GRIDS


@pytest.mark.full
def test_errors_meet_their_floors_and_steps_are_timed_beside_diffusers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The floors of times are left to quiet machines."""
    pytest.importorskip("diffusers")
    assert cli.main(["bench", "solver", f"output={tmp_path}", "rounds=1", "floors=false"]) == 0
    rows = {row["case"]: row for row in json.loads((tmp_path / "solver.json").read_text())["rows"]}
    assert all(set(rows[name]["timings"]) == {"longtake", "diffusers"} for name in PEERS)
    fixed = {name for name, kind in KINDS.items() if not kind.is_random and not kind.tells_ends}
    grids = {"default grids", "default grids, rectified_flow"}
    assert {f"error of {name}" for name in fixed} | grids | set(PEERS) == set(rows)
    floors = [floor for name, row in rows.items() if name not in PEERS for floor in row["floors"]]
    stepping = [name for name in fixed if not KINDS[name].is_adaptive]
    assert len(floors) == 2 * len(COMPARED) + 2 * len(PLAIN_GRIDS) * len(GRID_COUNTS) + len(stepping) + 1
    for floor in floors:
        value, least = floor["value"], floor["floor"]
        assert value <= least if floor["at_most"] else value >= least, floor
    assert (tmp_path / "solver.md").read_text().strip() in capsys.readouterr().out
