"""Averages of any length from real tiny runs. Run: pytest tests/core/checkpoint/test_reconstruct.py"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.reconstruct import reconstruct
from core.checkpoint.store import CheckpointStore
from core.checkpoint.weights import load_weights
from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.faults import failpoints
from tests.core import toy_run
from tests.core.ranks import run_ranks
from tests.core.toy_run import toy_trainer

TOY = toy_run.__file__
STEPS = 96
MOVING = {
    "steps": STEPS,
    "save_every": 36,
    "schedule": "constant",
    "lr": 1e-3,
    "decay": 0.99,
    "extra_decays": (),
}
SHORT = {"steps": 8, "save_every": 4, "power_widths": (0.05, 0.1), "snapshot_every": 2}


@pytest.fixture(scope="module")
def tracked(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that keeps the two averages, and others directly, whose copies go unused (`only_two`)."""
    folder = tmp_path_factory.mktemp("run")
    widths = (0.05, 0.1, 0.08, 0.15)
    toy_trainer(folder, world, power_widths=widths, snapshot_every=6, **MOVING).fit()
    return folder


def newest(run: Path) -> Path:
    path = CheckpointStore(run / "checkpoints").latest()
    assert path is not None
    return path


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the relative distance of the trainable weights in `a`."""
    difference = torch.cat([(a[name] - b[name]).flatten() for name in a])
    return float(difference.norm() / torch.cat([b[name].flatten() for name in a]).norm())


@pytest.mark.parametrize("width", [0.08, 0.15])
def test_equals_a_directly_tracked_average(
    tracked: Path, width: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From copies of 0.05 and 0.1 alone it is within 1 % of the one that training kept all along."""
    whole = CheckpointReader.state

    def only_two(reader: CheckpointReader) -> dict[str, object]:
        state = whole(reader)
        state["ema_widths"] = {n: w for n, w in state["ema_widths"].items() if w in (0.05, 0.1)}
        return state

    direct = load_weights(tracked, f"sigma-{width:g}")
    monkeypatch.setattr(CheckpointReader, "state", only_two)
    rebuilt = reconstruct(tracked, newest(tracked), width)
    assert rebuilt.snapshots == 2 * (STEPS // 6)
    error, away = distance(rebuilt.weights, direct), distance(rebuilt.weights, load_weights(tracked, "raw"))
    assert error < 0.01
    assert error < 0.1 * away  # most of what the average does to the weights is found
    assert rebuilt.profile_error < 0.05


def test_a_kept_width_is_the_kept_average(tracked: Path) -> None:
    kept = load_weights(tracked, "sigma-0.1")
    rebuilt = reconstruct(tracked, newest(tracked), 0.1)
    assert distance(rebuilt.weights, kept) < 1e-5
    assert rebuilt.profile_error < 1e-4


def test_at_an_earlier_checkpoint(tracked: Path) -> None:
    earlier = CheckpointStore(tracked / "checkpoints").complete()[1]
    assert CheckpointReader(earlier.path).state()["step"] == 72
    rebuilt = reconstruct(tracked, earlier.path, 0.05)
    assert distance(rebuilt.weights, load_weights(earlier.path, "sigma-0.05")) < 1e-5
    assert distance(rebuilt.weights, load_weights(tracked, "sigma-0.05")) > 1e-4


def test_touching_every_eighth_update_stays_within_a_percent(
    world: World, tracked: Path, tmp_path: Path
) -> None:
    """Three averages, two of them power-function ones, follow the weights once in eight updates."""
    toy_trainer(tmp_path, world, power_widths=(0.05, 0.1), every=8, **MOVING).fit()
    raw = load_weights(tracked, "raw")
    assert torch.equal(load_weights(tmp_path, "raw")["first.weight"], raw["first.weight"])
    for name in ("ema", "sigma-0.05", "sigma-0.1"):
        assert distance(load_weights(tmp_path, name), load_weights(tracked, name)) < 0.01, name


def test_copies_are_small_and_survive_a_failure_exactly(world: World, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    toy_trainer(whole, world, **SHORT).fit()
    failpoints.arm("step.update@step=8:raise")
    with pytest.raises(WorkError, match="failpoint"):
        toy_trainer(broken, world, **SHORT).fit()
    failpoints.arm("")
    toy_trainer(broken, world, **SHORT).fit()
    copies = [CheckpointStore(run / "ema").complete() for run in (whole, broken)]
    assert [entry.step for entry in copies[0]] == [8, 6, 4, 2]
    assert [entry.step for entry in copies[1]] == [8, 6, 6, 4, 2]  # 6 again, by the second attempt
    for one, other in zip(copies[0], [copies[1][i] for i in (0, 1, 3, 4)], strict=True):
        equal(CheckpointReader(one.path), CheckpointReader(other.path))
    equal(CheckpointReader(newest(whole)), CheckpointReader(newest(broken)))
    reader = CheckpointReader(copies[0][0].path)
    assert reader.kinds == ["ema-sigma-0.05", "ema-sigma-0.1"]
    numbers = sum(tensor.numel() for kind in reader.kinds for tensor in reader.full(kind).values())
    assert sum(path.stat().st_size for path in reader.folder.glob("rank-*.safetensors")) < 2.3 * numbers


def test_updates_that_a_later_attempt_took_back_have_no_part(world: World, tmp_path: Path) -> None:
    """The first attempt copied step 6, and stopped; the second went back to 4 and passed over 5 to 8."""
    options = {**SHORT, "steps": 9, "max_skipped": 2}
    at_once, stopped = tmp_path / "at_once", tmp_path / "stopped"
    failpoints.arm("step.loss@step=7:nan;step.loss@step=8:nan")
    toy_trainer(at_once, world, on_skipped="rollback", **options).fit()
    with pytest.raises(WorkError, match="non-finite"):
        toy_trainer(stopped, world, **options).fit()
    toy_trainer(stopped, world, on_skipped="rollback", **options).fit()
    one, other = (reconstruct(run, newest(run), 0.08) for run in (at_once, stopped))
    assert (one.snapshots, one.profile_error) == (other.snapshots, other.profile_error)
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.multiprocess
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.full)])
def test_copies_of_several_ranks_give_the_average_that_one_rank_s_give(
    world: World, tmp_path: Path, ranks: int
) -> None:
    """At every stage each rank writes its ranges of the copies, in fp16."""
    toy_trainer(tmp_path / "one", world, precision="fp32", **SHORT).fit()
    expected = reconstruct(tmp_path / "one", newest(tmp_path / "one"), 0.07)
    words = [f"{name}={list(v) if isinstance(v, tuple) else v}".replace(" ", "") for name, v in SHORT.items()]
    runs = [[f"--run={tmp_path / str(s)}", f"zero_stage={s}", "precision=fp32", *words] for s in range(4)]
    run_ranks(ranks, TOY, *(word for run in runs for word in run))
    for stage in range(4):
        run = tmp_path / str(stage)
        copy, whole = CheckpointReader(CheckpointStore(run / "ema").complete()[0].path), newest(run)
        assert copy.manifest["ranks"] == ranks
        for kind in copy.kinds:
            small, large = copy.full(kind), CheckpointReader(whole).full(kind)
            assert small.keys() == large.keys()
            assert all(torch.equal(small[name], large[name].half().float()) for name in small)
        rebuilt = reconstruct(run, whole, 0.07)
        assert (rebuilt.snapshots, rebuilt.profile_error) == (expected.snapshots, expected.profile_error)
        assert distance(rebuilt.weights, expected.weights) < 1e-3  # what rounding to fp16 may turn
        assert distance(rebuilt.weights, load_weights(run, "raw")) > 1e-2


def equal(one: CheckpointReader, other: CheckpointReader) -> None:
    """Return whether every tensor of every kind is equal, bit for bit."""
    assert one.kinds == other.kinds
    for kind in one.kinds:
        a, b = one.full(kind), other.full(kind)
        assert all(torch.equal(a[name], b[name]) for name in a), kind


def test_without_power_averages_it_says_which_setting_keeps_them(world: World, tmp_path: Path) -> None:
    toy_trainer(tmp_path, world, steps=2).fit()
    with pytest.raises(UserError, match=r"ema_sigma=0\.08: expected a run with ema\.power_widths"):
        reconstruct(tmp_path, newest(tmp_path), 0.08)
    with pytest.raises(UserError, match=r"ema_sigma=0\.4: expected above 0 and below 0\.289"):
        reconstruct(tmp_path, newest(tmp_path), 0.4)


def test_a_damaged_copy_is_named(world: World, tmp_path: Path) -> None:
    toy_trainer(tmp_path, world, **SHORT).fit()
    broken = CheckpointStore(tmp_path / "ema").complete()[-1].path / "rank-00000.safetensors"
    shutil.copy(newest(tmp_path) / "rank-00000.safetensors", broken)
    with pytest.raises(DamagedCheckpoint, match=f"{broken}"):
        reconstruct(tmp_path, newest(tmp_path), 0.07)
