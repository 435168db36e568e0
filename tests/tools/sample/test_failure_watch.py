"""Ranks that share the tokens of every sample end together, with a line each. Run: pytest FILE"""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from core.distributed.waiting import Life, Silence
from core.errors import PEER_LOST, PeerLost, RankFailed
from core.faults.failpoints import VARIABLE
from tests.core.ranks import finish, run_ranks, start_ranks
from tools.sample.networks.failure_watch import FailureWatch

PROGRAM = """
import sys
from pathlib import Path
import pytest
from core import environment
from launch import cli
from tests.tools.made_runs import make_run

folder = Path(sys.argv[1])
with pytest.MonkeyPatch.context() as patch:
    run = make_run(folder / "run" / str(environment.rank()), patch)
    fields = ("count=2", "batch=1", "frames=9", "sampler.steps=2", "sampler.guidance=2", "device=cpu")
    cli.main(["sample", str(run), f"output={folder / 'made'}", "sequence_parallel=2", *fields])
"""
IN_TIME_S = 300  # far less than the half hour that a collective waits


def ended(folder: Path, fault: str) -> list[tuple[int, str]]:
    return finish(start_ranks(2, "-c", PROGRAM, str(folder), environment={VARIABLE: fault}), IN_TIME_S)


@pytest.mark.multiprocess
def test_memory_that_runs_out_on_one_rank_ends_both_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (leads, said), (follows, also_said) = ended(tmp_path, "sample.shared@rank=1:oom")
    assert (leads, follows) == (PEER_LOST, 1), said + also_said
    line = "memory ran out on rank 1 of the 2 that share the tokens of every sample: CUDA out of memory"
    assert f"longtake sample: {line}" in also_said
    assert f"longtake sample: ended because another rank has: {line}" in said
    assert "a smaller batch" in said
    assert "Traceback" not in said + also_said
    run_ranks(2, "-c", PROGRAM, str(tmp_path))
    assert (tmp_path / "made/samples.npz").is_file()


@pytest.mark.full
@pytest.mark.multiprocess
@pytest.mark.parametrize(("fault", "word"), [("oom", "memory ran out on"), ("raise", "failed: failpoint")])
def test_the_first_rank_ends_with_the_others_too(tmp_path: Path, fault: str, word: str) -> None:
    (leads, said), (follows, also_said) = ended(tmp_path, f"sample.shared@rank=0:{fault}")
    assert leads == 1
    assert follows == PEER_LOST
    assert word in said
    assert "given up" not in said  # no sample is to blame
    assert "ended because another rank has" in also_said


@pytest.mark.full
@pytest.mark.multiprocess
def test_a_rank_that_is_killed_ends_the_other(tmp_path: Path) -> None:
    (leads, said), (follows, _) = ended(tmp_path, "sample.shared@rank=1:kill")
    assert (leads, follows) == (PEER_LOST, -9)
    assert "ended because another rank has" in said


def test_a_process_that_does_not_come_out_by_itself_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    store, statuses, gone = dist.HashStore(), list[int](), threading.Event()

    def end(status: int) -> None:
        statuses.append(status)
        gone.set()

    fails, waits = (FailureWatch(store, rank, 2, None, end, grace_s=0.2) for rank in (1, 0))
    with pytest.raises(RankFailed, match="memory ran out on rank 1 of the 2"), fails.shared():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with waits.leaving():  # as in a collective that the other will never come to
        assert gone.wait(20)
    assert statuses == [PEER_LOST]
    assert "ended because another rank has: memory ran out on rank 1" in capsys.readouterr().err
    with pytest.raises(PeerLost, match="memory ran out on rank 1"), waits.shared():
        pytest.fail("nothing more is computed")
    for watch in (fails, waits):
        watch.close()


def test_a_rank_that_is_silent_is_lost_to_those_that_wait(capsys: pytest.CaptureFixture[str]) -> None:
    store, statuses, gone = dist.HashStore(), list[int](), threading.Event()
    life, passed = Life(store, 0, 2, patience_s=1800.0), itertools.count(step=10)
    silence = Silence(life, lambda: float(next(passed)), patience_s=120.0)

    def end(status: int) -> None:
        statuses.append(status)
        gone.set()

    watch = FailureWatch(store, 0, 2, silence, end, grace_s=0.2)
    with watch.leaving():
        assert gone.wait(60)
    assert statuses == [PEER_LOST]
    assert "rank 1 has given no sign of life for 1" in capsys.readouterr().err
    watch.close()
    life.end()


def test_what_is_no_failure_of_a_rank_passes() -> None:
    store = dist.HashStore()
    watch, other = (FailureWatch(store, rank, 2, grace_s=0.2) for rank in (0, 1))
    with watch.shared():
        pass
    with pytest.raises(SystemExit), watch.shared():
        raise SystemExit(75)
    with pytest.raises(PeerLost, match=r"rank 0 of the 2 .* was asked to end"), other.shared():
        pass
    for each in (watch, other):
        each.close()
