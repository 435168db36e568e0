"""Two ranks, killed with SIGKILL and started again. Run: pytest tests/core/train/test_resume.py"""

from __future__ import annotations

import re
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from core.checkpoint.weights import load_weights
from core.records import read_rows
from core.root import ROOT
from tests.core.ranks import finish, fork_ranks
from tests.core.toy_run import STAGES

TIMINGS = ("seconds", "samples_per_s", "data_wait", "tokens_per_s", "tflops_per_s", "ranks")
EVERY = 3  # steps between saves of the toy's runs
# Stage; moment: in a step, in a rank's file, in a receipt, before and after the manifest; which save is under
# way in that moment for certain (the one before is whole then), or was just published.
KILLS = [
    (1, "step.update@rank=1,step=5:kill", ""),
    (2, "save.flush@rank=1,step=6:kill", "writes 6"),
    (3, "save.commit@rank=0,step=6:kill", "writes 6"),
    (0, "save.receipt@rank=0,step=3:kill", "writes 3"),
    (1, "step.ema@rank=0,step=6:kill", ""),
    (2, "save.purge@rank=0,step=6:kill", "wrote 6"),
    ("fsdp2-2", "step.update@rank=1,step=5:kill", ""),
    ("fsdp2-3", "save.commit@rank=0,step=6:kill", "writes 6"),
]
PLACES = [
    *("step.data", "step.check", "step.forward", "step.loss", "step.backward", "step.update", "step.ema"),
    *("step.end", "step.validate", "step.save"),
    *("save.begin", "save.tensor", "save.flush", "save.tensors_written", "save.receipt"),
    *("save.receipt_written", "save.state", "save.commit", "save.committed", "save.purge", "save.purging"),
]
SAVES = {  # in a kill's step 6: what is for certain
    **dict.fromkeys((p for p in PLACES if p.startswith("save.")), "writes 6"),
    **dict.fromkeys(("save.committed", "save.purge", "save.purging"), "wrote 6"),
}
OF_RANK_0 = PLACES[PLACES.index("save.state") :]
COPIES = ("save.flush", "save.commit", "save.committed")  # of averages, which the same code writes
EVERYTHING = ["validate_every=3", "check_every=2", "keep_last=1", "power_widths=[0.1]", "snapshot_every=5"]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in read_rows(folder / "metrics.jsonl")]


def assert_equal_runs(a: Path, b: Path, steps: int = 8) -> None:
    """Compare every logged number, weight and average, bit for bit."""
    assert rows(a) == rows(b)
    assert read_rows(a / "validation.jsonl") == read_rows(b / "validation.jsonl")
    assert [r["step"] for r in rows(a)] == list(range(1, steps + 1))
    for which in ("raw", "ema", "0.5"):
        one, other = load_weights(a, which), load_weights(b, which)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), which


def command(folder: Path, stage: Any, fault: str = "", *more: str) -> list[str]:
    fields = [f"zero_stage={stage}", "dropout=0.2", "micro_batch=2", *more]
    return [f"--run={folder}", *fields, *([f"fault={fault}"] if fault else [])]


def run_until_killed(output: Path, runs: list[str]) -> None:
    """Start two ranks; one kills itself at its failpoint, the other must notice and end with an error."""
    codes = sorted(code for code, _ in finish(fork_ranks(2, output, *runs)))
    assert codes[0] == -9
    assert codes[1] > 0 or codes[1] == -6  # gloo's error, or its abort


def run_to_the_end(output: Path, runs: list[str]) -> None:
    for code, text in finish(fork_ranks(2, output, *runs)):
        assert code == 0, text


def continued_after(output: Path) -> int:
    """Return the step from which the first run of an earlier start went on; 0 for a run that began anew."""
    found = re.search(r"continuing after step (\d+)", (output / "rank-0.txt").read_text())
    return int(found[1]) if found else 0


@pytest.mark.multiprocess
def test_a_killed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    finished: list[str] = []
    for number, (stage, fault, _) in enumerate(KILLS):
        # Each start finishes the run killed before and is killed in the next.
        folder = tmp_path / f"killed-{number}"
        run_until_killed(tmp_path / f"out-{number}", [*finished, *command(folder, stage, fault)])
        finished = command(folder, stage)
    whole = [word for stage in STAGES for word in command(tmp_path / f"whole-{stage}", stage)]
    run_to_the_end(tmp_path / f"out-{len(KILLS)}", [*finished, *whole])
    for number, (stage, fault, save) in enumerate(KILLS):
        assert_equal_runs(tmp_path / f"whole-{stage}", tmp_path / f"killed-{number}")
        done = int(re.findall(r"step=(\d)", fault)[0])  # at least: a save's thread is not waited for
        assert_few_are_redone(done, continued_after(tmp_path / f"out-{number + 1}"), save)


def assert_few_are_redone(done: int, continued: int, save: str) -> None:
    """Check that the newest whole save is continued: at most EVERY steps and those of a write are redone."""
    what, _, step = save.partition(" ")
    if what == "writes":
        assert continued == int(step) - EVERY
    elif what == "wrote":
        assert continued == int(step)
    else:  # the save before may just be under way
        assert continued in (done - 1 - (done - 1) % EVERY, done - 1 - (done - 1) % EVERY - EVERY)


def test_every_failpoint_is_among_the_kills() -> None:
    """Those of a run are `PLACES`; the tests of the jobs of datasets kill at theirs."""
    sources = [path.read_text() for top in ("core", "data", "models", "tools") for path in _python(top)]
    found = {name for text in sources for name in re.findall(r'failpoint\("([\w.]+)"', text)}
    phases = r'(?:runner|self)\.enter\("(\w+)"|^    phase = "(\w+)"'
    found |= {
        f"step.{''.join(phase)}" for text in sources for phase in re.findall(phases, text, re.MULTILINE)
    }
    of_runs = {name for name in found if name.startswith(("step.", "save."))} - {"step.preview"}
    assert of_runs == set(PLACES)
    tests = "".join(path.read_text() for path in _python("tests"))
    assert [name for name in found - of_runs if f'"{name}' not in tests] == []


def _python(top: str) -> list[Path]:
    return sorted((ROOT / top).rglob("*.py"))


@pytest.mark.multiprocess
@pytest.mark.full
def test_kills_at_20_random_moments_are_survived(tmp_path: Path) -> None:
    """One long run is killed at whatever it is doing; saves write while it goes on."""
    random = Random(0)
    options = ["zero_stage=2", "dropout=0.2", "steps=400", "save_every=3"]
    killed = [f"--run={tmp_path / 'killed'}", *options, "fault=step.data:sleep=0.03"]
    metrics = tmp_path / "killed" / "metrics.jsonl"
    for attempt in range(20):
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        written = rows(tmp_path / "killed") if before else []  # none after a kill before the first save
        done = written[-1]["step"] if written else 0
        ranks = fork_ranks(2, tmp_path / f"out-{attempt}", *killed)
        while not (metrics.exists() and metrics.stat().st_mtime_ns > before):  # it trains
            assert ranks[0].process.is_alive(), ranks[0].communicate()[0]
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        dying = random.choice([[0], [1], [0, 1]])
        for rank in dying:
            ranks[rank].kill()
        codes = [code for code, _ in finish(ranks)]
        assert all(codes), codes
        assert codes[dying[0]] == -9  # a second one may have noticed that, and have left by itself
        # The save before is on disk when the next one begins.
        assert 0 <= done - continued_after(tmp_path / f"out-{attempt}") <= 2 * EVERY
    both = [*killed[:-1], f"--run={tmp_path / 'whole'}", *options]
    for code, text in finish(fork_ranks(2, tmp_path / "out", *both), timeout_s=900):
        assert code == 0, text
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed", steps=400)


@pytest.mark.multiprocess
@pytest.mark.full
@pytest.mark.parametrize("rank", [0, 1])
def test_a_kill_anywhere_is_survived(tmp_path: Path, rank: int) -> None:
    """Kills come in step 6 and the save after it, and in step 5, where copies of averages are written."""
    whole = tmp_path / "whole"
    run_to_the_end(tmp_path / "out-whole", command(whole, 2, "", *EVERYTHING))
    kills = [*((place, 6) for place in PLACES), *((place, 5) for place in COPIES)]
    kills = [(place, step) for place, step in kills if rank == 0 or place not in OF_RANK_0]
    finished: list[str] = []
    for number, (place, step) in enumerate(kills):
        killed = command(tmp_path / str(number), 2, f"{place}@rank={rank},step={step}:kill", *EVERYTHING)
        run_until_killed(tmp_path / f"out-{number}", [*finished, *killed])
        finished = command(tmp_path / str(number), 2, "", *EVERYTHING)
    run_to_the_end(tmp_path / f"out-{len(kills)}", finished)
    for number, (place, step) in enumerate(kills):
        assert_equal_runs(whole, tmp_path / str(number))
        continued = continued_after(tmp_path / f"out-{number + 1}")
        assert_few_are_redone(step, continued, "" if step == 5 else SAVES.get(place, ""))


@pytest.mark.multiprocess
@pytest.mark.full
@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_rank_ends_the_others_within_the_timeout(tmp_path: Path, stage: Any) -> None:
    """DeepSpeed's own groups ignore the timeout given at the start; ours is set on all of them."""
    fault = "fault=step.update@rank=1,step=4:stop"
    fields = [f"zero_stage={stage}", "timeout_s=5.0", "watchdog_s=0", fault]
    ranks = fork_ranks(2, tmp_path / "out", f"--run={tmp_path / 'run'}", *fields)
    try:
        assert ranks[0].wait(timeout=60) != 0  # gloo would wait 30 minutes
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
