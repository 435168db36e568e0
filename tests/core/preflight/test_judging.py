"""Judge which nodes are unfit, from the facts of ranks; and measure this machine once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import environment
from core.distributed.ranks import World
from core.errors import WorkError
from core.faults import failpoints
from core.preflight.check import look_over_nodes
from core.preflight.facts import Facts
from core.preflight.judging import judge

GPU = Facts(
    rank=0,
    node="n0",
    device="H200",
    versions={"torch": "2.13", "driver": "580"},
    clock_s=1000.0,
    total_bytes=140 << 30,
    free_bytes=139 << 30,
    disk_free_bytes=1 << 40,
    write_bytes_s=1e9,
    flops=6e14,
    is_right=True,
    links={"all_reduce": 4e11, "to_next": 2e11},
)


def job(**of_last: object) -> list[Facts]:
    """Return four nodes of one GPU, the last of which differs."""
    ranks = [replace(GPU, rank=rank, node=f"n{rank}") for rank in range(4)]
    return [*ranks[:3], replace(ranks[3], **of_last)]  # type: ignore[arg-type]


def test_nodes_that_are_alike_are_fit() -> None:
    findings = judge(job())
    assert (findings.unfit, findings.warnings, findings.stop) == ({}, (), "")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"is_right": False}, "a matrix product on H200 of rank 3 was wrong"),
        ({"versions": {"torch": "2.13", "driver": "570"}}, "driver 570, and 580 on most ranks"),
        ({"versions": {"torch": "2.13"}}, "driver none, and 580 on most ranks"),
        ({"device": "A100"}, "A100, and H200 on most ranks"),
        ({"flops": 4e14}, "H200 of rank 3 computes at 67% of the usual speed"),
        ({"free_bytes": 100 << 30}, "H200 of rank 3 has 40 GiB in use by others"),
        ({"total_bytes": 70 << 30, "free_bytes": 70 << 30}, "has 70 GiB of memory, and 140 GiB is usual"),
    ],
)
def test_a_node_unlike_the_others_is_named(fields: dict[str, object], reason: str) -> None:
    findings = judge(job(**fields))
    assert list(findings.unfit) == ["n3"]
    assert reason in findings.unfit["n3"]


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"clock_s": 1007.5}, "the clock of n3 is +7.5 s off"),
        ({"links": {"all_reduce": 4e11, "to_next": 1e9}}, "rank 3 sends 954 MiB/s from n3 to n0"),
        ({"write_bytes_s": 1e7}, "n3 writes 9.54 MiB/s into the run's folder"),
    ],
)
def test_what_others_share_is_told_and_not_held_against_a_node(
    fields: dict[str, object], warning: str
) -> None:
    findings = judge(job(**fields))
    assert (findings.unfit, findings.warnings) == ({}, (warning,))


def test_a_slow_cpu_is_fit_and_a_wrong_one_is_not() -> None:
    slow = replace(GPU, device="CPU", flops=1e9, free_bytes=1 << 30)
    assert judge([replace(GPU, device="CPU"), replace(slow, node="n1", rank=1)]).unfit == {}
    assert list(judge([replace(slow, is_right=False)]).unfit) == ["n0"]


def test_a_full_disk_is_nobodys_node() -> None:
    findings = judge(job(disk_free_bytes=3 << 20))
    assert (findings.unfit, findings.stop) == (
        {},
        "n3 has 3 MiB of free disk for the run, and 1 GiB is the least",
    )


@pytest.fixture
def alone() -> World:
    return World(0, 1, 0, torch.device("cpu"))


def test_a_look_at_this_machine_is_recorded_and_leaves_no_file(
    alone: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look_over_nodes(alone, tmp_path)
    assert list(tmp_path.iterdir()) == []  # nobody asked
    monkeypatch.setenv(environment.PREFLIGHT, "1")
    look_over_nodes(alone, tmp_path)
    (facts,) = json.loads((tmp_path / "logs" / "preflight.json").read_text())["ranks"]
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["flops"] > 1e8
    assert facts["is_right"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["preflight.json"]
    assert "preflight: 1 node, 1 rank on CPU, products " in capsys.readouterr().err


def test_wrong_arithmetic_is_found(alone: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.PREFLIGHT, "1")
    failpoints.arm("preflight.product:nan")
    try:
        with pytest.raises(WorkError, match=r"preflight: .*: a matrix product on CPU of rank 0 was wrong"):
            look_over_nodes(alone, tmp_path)
    finally:
        failpoints.arm("")
