"""`plan action=measure`: what is timed, what follows, and what is written."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config.loading import load
from core.config.yaml_files import read_yaml
from core.errors import UserError
from core.root import ROOT
from data.order.buckets import group_sizes
from tools.plan.config import Config
from tools.plan.job import run
from tools.plan.measuring.even_groups import EVEN
from tools.plan.measuring.stopwatch import Size, Stopwatch
from tools.train.config import Config as TrainConfig

SMALL = (
    *("model.width=16", "model.depth=2", "model.heads=2", "model.num_classes=10", "engine.device=cpu"),
    *("data.group_size=48", "data.rank_multiple=1", "plan.ranks=1", "trainer.steps=1000"),
    *("plan.samples=1000", "plan.shapes=[[4,1,8,8],[4,5,8,8]]", "format=json", "action=measure"),
)


def measured(capsys: pytest.CaptureFixture[str], file: Path, *fields: str) -> dict[str, Any]:
    run(load(Config, overrides=[*SMALL, f"file={file}", *fields]))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_groups_are_evened_out_by_what_was_timed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times are made up here, and unlike any of the configured cost: clips cost nine images."""

    def made_up(stopwatch: Stopwatch, sizes: Sequence[Size], number: int) -> dict[Size, float]:
        stopwatch._updates.append(0.5)
        return {size: 0.01 + size.samples * (0.001, 0.009)[size.bucket] for size in sizes}

    monkeypatch.setattr(Stopwatch, "time", made_up)
    found = measured(capsys, tmp_path / "groups.yaml", "plan.price=2")
    seen = found["measured"]
    assert seen["spread_before"] > 0.2
    assert seen["spread"] <= EVEN
    images, clips = (bucket["group"] for bucket in found["buckets"])
    assert images == pytest.approx(9 * clips, rel=0.05)
    times = [0.01 + images * 0.001, 0.01 + clips * 0.009]
    assert seen["group_s"] == pytest.approx(times)
    shares = [bucket["share_of_groups"] for bucket in found["buckets"]]
    step = sum(share * took for share, took in zip(shares, times, strict=True)) + 0.5
    assert found["configured"]["step_s"] == pytest.approx(step)
    assert "as measured on cpu" in found["configured"]["basis"]
    assert found["configured"]["price"] == pytest.approx(2 * step * 1000 / 3600)
    written = read_yaml(tmp_path / "groups.yaml")
    assert list(written) == ["data"]
    config = load(TrainConfig, [tmp_path / "groups.yaml"], ["source=x", "output=y"])
    assert group_sizes([16, 80], config.data) == [images, clips]


def test_this_device_is_timed_and_a_file_is_not_replaced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.plan.measuring.stopwatch.SECONDS", 0.1)
    monkeypatch.setattr("tools.plan.measuring.measure.PASSES", 1)
    file = tmp_path / "groups.yaml"
    seen = measured(capsys, file)["measured"]
    assert seen["device"] == "cpu"
    assert seen["update_s"] > 0
    assert all(each["seconds"] > 0 and each["predicted"] > 0 for each in seen["micro_batches"])
    assert len({(each["bucket"], each["samples"]) for each in seen["micro_batches"]}) >= 4
    with pytest.raises(UserError, match=r"file=.*groups.yaml: expected a file that is not there yet"):
        measured(capsys, file)


DEMO = (
    *("plan.samples=2397", "plan.shapes=[[4,1,8,8],[4,5,8,8]]", "plan.ranks=1", "engine.device=cpu"),
    "action=measure",
    "data.rank_multiple=16",
)


def test_groups_of_the_demo_are_even_in_smaller_multiples(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With times such as two cores had; in multiples of 16, groups are all of 16 samples."""

    def made_up(stopwatch: Stopwatch, sizes: Sequence[Size], number: int) -> dict[Size, float]:
        stopwatch._updates.append(0.02)
        return {size: 0.0134 + size.samples * (0.00443, 0.0225)[size.bucket] for size in sizes}

    monkeypatch.setattr(Stopwatch, "time", made_up)
    file = tmp_path / "groups.yaml"
    run(load(Config, [ROOT / "configs/demo/train.yaml"], [*DEMO, f"file={file}"]))
    said = capsys.readouterr().out
    assert "as configured by 126.3% (predicted 126.3%)" in said
    (line,) = (line for line in said.splitlines() if line.startswith("group times spread by "))
    assert float(line.split()[4].rstrip("%")) <= 100 * EVEN
    assert "multiples of data.rank_multiple=16 are less even: it becomes 4" in said
    assert read_yaml(file)["data"]["rank_multiple"] == 4
    files = [ROOT / "configs/demo/train.yaml", file]
    chosen = group_sizes([16, 80], load(TrainConfig, files, ["source=x", "output=y"]).data)
    assert chosen[0] >= 4 * chosen[1]


@pytest.mark.full
def test_groups_of_the_demo_take_the_same_measured_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on this machine, by the time of one processor core, which other programs hardly change."""
    monkeypatch.setattr("tools.plan.measuring.stopwatch.clock", time.process_time)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fields = [*DEMO, "format=json", f"file={tmp_path / 'groups.yaml'}"]
        run(load(Config, [ROOT / "configs/demo/train.yaml"], fields))
    finally:
        torch.set_num_threads(threads)
    seen = json.loads(capsys.readouterr().out)["measured"]
    assert seen["spread_before"] > 1
    assert seen["spread"] <= EVEN


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("plan.device=H100",), "plan.device=H100: expected '' with action=measure, which measures .*, cpu"),
        (
            ("engine.sequence_parallel=2", "plan.ranks=2"),
            "engine.sequence_parallel=2: expected 1 with action",
        ),
        (("action=write",), "plan.device=: expected a device to recommend an engine for"),
        (("action=weigh",), "action=weigh: expected show, write or measure"),
    ],
)
def test_what_cannot_be_measured_is_refused(fields: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(load(Config, overrides=[*SMALL, f"file={tmp_path / 'x.yaml'}", *fields]))
