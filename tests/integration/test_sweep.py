"""A sweep of tiny runs: added to, killed, signalled, and with a run that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import CONTINUABLE
from core.records import read_rows
from core.root import ROOT
from core.run.folder import METRICS, SWEEP
from tests import varied_digits
from tests.integration.tiny_run import finish

FILE = """
model: {input_channels: 4, heads: 2, num_classes: 10, width: 8, depth: 1}
data: {group_size: 8}
engine: {device: cpu}
trainer: {save_every: 2}
metrics: {log_every: 1}
validation: {samples: 16, strata: 2, averages: false}
sweep: {budgets: [2.0e+7], sizes: [width=8 depth=1, width=12 depth=1]}
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    varied_digits.main(folder, 256, held_out=64)
    (folder / "sweep.yaml").write_text(FILE)
    return folder


def words(digits: Path, output: Path, *fields: str) -> list[str]:
    places = [str(digits / "train"), f"autoencoder={digits / 'autoencoder'}", f"output={output}"]
    held_out = f"validation_source={digits / 'held_out'}"
    return [sys.executable, "-m", "launch", "sweep", str(digits / "sweep.yaml"), *places, held_out, *fields]


def start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, process_group=0, **pipes)  # type: ignore[call-overload,no-any-return]


def ledger(output: Path) -> list[dict[str, object]]:
    return [row for row in read_rows(output / SWEEP) if "run" in row]


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 240
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)


def steps_of(output: Path, budget: str) -> int:
    return len(read_rows(output / "runs" / f"{budget}-width12-depth1" / METRICS))


def test_a_sweep_does_what_is_missing_and_a_budget_adds_its_runs(digits: Path, tmp_path: Path) -> None:
    output, one = tmp_path / "sweep", "sweep.sizes=[width=8 depth=1]"
    status, printed = finish(words(digits, output, one))
    assert status == 0, printed
    assert "1 of 1 run done; next: the same command with action=fit" in printed
    status, printed = finish(words(digits, output, one, "sweep.budgets=[2e7,4e7]"))
    assert status == 0, printed
    assert [(row["run"], row["state"]) for row in ledger(output)] == [
        ("2e+07-width8-depth1", "done"),
        ("4e+07-width8-depth1", "done"),
    ]
    first, second = ledger(output)
    assert first["samples"] == 8 * first["steps"]  # type: ignore[operator]
    assert second["flops"] == pytest.approx(4e7, rel=0.1)
    status, printed = finish(words(digits, output, one))
    assert status == 2
    assert "is the ledger of another sweep: it has 4e+07-width8-depth1" in printed
    status, printed = finish(words(digits, output, one, "sweep.budgets=[2e7,4e7]", "optimizer.lr=1e-3"))
    assert status == 2
    assert "optimizer.lr=0.001: expected 0.0001" in printed
    status, printed = finish(words(digits, output, one, "sweep.budgets=[2e7,4e7]", "action=fit"))
    assert status == 2
    assert "2 finished runs, at least 6 needed" in printed


@pytest.mark.full
def test_a_killed_sweep_goes_on_where_it_was(digits: Path, tmp_path: Path) -> None:
    plain, output, fields = (
        tmp_path / "plain",
        tmp_path / "sweep",
        ("queue.timeout_s=2", "queue.heartbeat_s=0.5"),
    )
    assert finish(words(digits, plain, *fields))[0] == 0
    process = start(words(digits, output, *fields), LONGTAKE_FAULT="step.end:sleep=0.2")
    until(lambda: len(ledger(output)) == 1 and steps_of(output, "2e+07") > 3)
    process.kill()
    process.communicate()
    status, printed = finish(words(digits, output, *fields))
    assert status == 0, printed
    assert [row["run"] for row in ledger(output)] == [row["run"] for row in ledger(plain)]
    assert [row["losses"] for row in ledger(output)] == [row["losses"] for row in ledger(plain)]


@pytest.mark.full
def test_a_signal_saves_the_run_under_way(digits: Path, tmp_path: Path) -> None:
    output = tmp_path / "sweep"
    process = start(words(digits, output), LONGTAKE_FAULT="step.end:sleep=0.2")
    until(lambda: steps_of(output, "2e+07") > 2)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == CONTINUABLE, printed
    assert "saved after step" in printed
    assert "the same command continues the sweep" in printed
    assert len(ledger(output)) == 1
    assert finish(words(digits, output))[0] == 0
    assert len(ledger(output)) == 2


@pytest.mark.full
def test_a_failed_run_is_marked_and_named_and_done_again_on_request(digits: Path, tmp_path: Path) -> None:
    output, one = tmp_path / "sweep", "sweep.sizes=[width=8 depth=1]"
    status, printed = finish(words(digits, output, one), LONGTAKE_FAULT="step.end:raise")
    assert status == 1, printed
    (row,) = ledger(output)
    assert row["state"] == "failed"
    assert "failpoint step.end raised" in str(row["reason"])
    assert "1 run failed: 2e+07-width8-depth1; retry=true does them again" in printed
    assert finish(words(digits, output, one))[0] == 1
    assert len(ledger(output)) == 1
    assert finish(words(digits, output, one, "retry=true"))[0] == 0
    assert [row["state"] for row in ledger(output)] == ["failed", "done"]
