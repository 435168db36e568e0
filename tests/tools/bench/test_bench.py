"""The benchmarks on tiny material: every way returns what was written, floors decide the exit status."""

from __future__ import annotations

import json
from importlib import metadata

import numpy as np
import pytest
import torch

from core.errors import WorkError
from launch import cli
from tools.bench import job, rounds
from tools.bench.material import IMAGE, latents_of, make_cache, repeat
from tools.bench.reader import is_right
from tools.bench.rounds import Floor, Row, Timing, Way

TINY = (
    "rounds=1",
    "samples=512",
    "peer_samples=512",
    "videos=16",
    "index_rows=2000",
    "clips=1",
    "floors=false",
)
CASES = {"reader": 4, "writer": 2, "decode": 1}


@pytest.mark.parametrize("what", ["reader", "writer", pytest.param("decode", marks=pytest.mark.full)])
def test_a_tiny_run_gives_rows_floors_and_versions(tmp_path, what, capsys):
    assert cli.main(["bench", what, f"output={tmp_path}", *TINY]) == 0
    result = json.loads((tmp_path / f"{what}.json").read_text())
    assert len(result["rows"]) == CASES[what]
    assert result["machine"]["cores"] >= 1
    assert len(result["machine"]["load_before"]) == 3
    assert result["versions"]["torch"] == metadata.version("torch")
    for row in result["rows"]:
        assert row["protocol"]
        assert any(name.startswith("longtake") for name in row["timings"])
        for timing in row["timings"].values():
            assert timing["correct"]
            assert len(timing["seconds"]) == 1
            assert timing["best"] == timing["median"] == timing["units"] / timing["seconds"][0]
    assert any(row["floors"] for row in result["rows"])
    assert (tmp_path / f"{what}.md").read_text().strip() in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{what}.json", f"{what}.md"]


@pytest.fixture
def one_row(monkeypatch):
    """Replace the measurement by one that misses a floor."""
    row = Row("case", "samples", "how", {"longtake": Timing(1, (1.0,), 1.0, 1.0)})
    row.floors.append(Floor("samples/s", 1.0, 2.0))
    monkeypatch.setattr("tools.bench.decode.rows", lambda config, folder: [row])


def test_a_missed_floor_is_exit_status_1_after_the_results_are_written(one_row, tmp_path, capsys):
    assert cli.main(["bench", "decode", f"output={tmp_path}"]) == 1
    assert "1 floor missed: case: samples/s" in capsys.readouterr().err
    assert json.loads((tmp_path / "decode.json").read_text())["rows"][0]["floors"][0]["is_met"] is False
    assert "**missed**" in (tmp_path / "decode.md").read_text()
    assert cli.main(["bench", "decode", f"output={tmp_path}", "floors=false"]) == 0


def test_what_is_measured_is_checked(tmp_path, capsys):
    assert cli.main(["bench", "readers", f"output={tmp_path}"]) == 2
    assert "readers" in capsys.readouterr().err


@pytest.mark.parametrize("wrong_at", [0, 2])
def test_a_way_that_gives_something_wrong_stops_the_measurement(wrong_at):
    given = iter(range(10))
    way = Way("peer", 1, lambda: iter([next(given)]), lambda item: item != wrong_at)
    with pytest.raises(WorkError, match="peer does not give what was written"):
        rounds.measure([way], 5)


def test_ways_take_turns_and_every_round_is_timed():
    calls: list[str] = []

    def items(name):
        calls.append(name)
        return iter([name])

    ways = [Way(name, 3, lambda name=name: items(name), lambda item: True) for name in "ab"]
    timings = rounds.measure(ways, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    for timing in timings.values():
        assert len(timing.seconds) == 3
        assert timing.best == 3 / min(timing.seconds) >= timing.median == 3 / np.median(timing.seconds)


def test_the_check_of_latents_sees_a_wrong_value_and_a_wrong_id():
    ids = np.array([5, 5000])
    latents = torch.from_numpy(latents_of(ids, IMAGE))
    assert is_right((ids, latents), IMAGE)
    assert not is_right((ids + 7, latents), IMAGE)
    latents[1, 0, 3, 0, 31, 31] += 1
    assert not is_right((ids, latents), IMAGE)


def test_a_repeated_cache_is_the_same_samples_over_and_over(tmp_path):
    small = make_cache(tmp_path / "small", 128, IMAGE, shards=2)
    large = repeat(small, tmp_path / "large", 300)
    assert len(large) == 384
    assert large.index["id"].tolist() == list(range(384))
    assert large.index["shard"][[0, 127, 128, 383]].tolist() == [0, 1, 2, 5]


def test_peers_that_are_not_installed_are_named():
    row = Row("case", "samples", "how", {"longtake": Timing(1, (1.0,), 1.0, 1.0)}, absent=("litdata",))
    row.require("litdata", 5)
    assert row.floors == []
    assert "| case | litdata | not installed |" in rounds.table([row])


def test_versions_say_what_is_not_installed():
    assert set(job.versions()) == set(job.PACKAGES)
