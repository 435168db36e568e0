"""What the doctor says of runs that really went wrong, each in its own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.doctor import runs
from launch.doctor.finding import Finding
from tests.integration.tiny_run import command, finish

pytestmark = [pytest.mark.multiprocess, pytest.mark.full]
FIELDS = ("trainer.steps=12", "trainer.save_every=5", "engine.precision=fp32", "trainer.save_async=false")


def diagnosed(run: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in runs.look(run)}


@pytest.mark.parametrize(
    ("fault", "name", "said", "remedy"),
    [
        ("step.loss@step=4:oom", "memory", "out of memory on rank 0", "engine.micro_batch=auto"),
        ("save.tensor@step=5:enospc", "disk full", "No space left", "free some space"),
        ("step.loss:nan", "not finite", "non-finite", "optimizer.lr"),
        ("step.data@step=7:term", "preempted", "ended early on SIGTERM", "the same command continues"),
        ("step.data@step=7:raise", "error", "failpoint step.data", "the same command continues"),
    ],
)
def test_a_run_that_failed_is_explained(
    cache: Path, tmp_path: Path, fault: str, name: str, said: str, remedy: str
) -> None:
    run = tmp_path / "run"
    fields = ("trainer.max_skipped=3", "trainer.max_failed_saves=1")
    status, output = finish(command(cache, run, *FIELDS, *fields), LONGTAKE_FAULT=fault)
    assert status not in (0, 2), output
    findings = diagnosed(run)
    assert said in findings[name].text, findings
    assert remedy in findings[name].remedy
    assert "not finished" in findings["run"].text


def test_slow_data_are_seen_in_the_rows_of_a_run(cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = command(cache, run, *FIELDS, "data.prefetch=1", "trainer.save_every=12")
    status, output = finish(words, LONGTAKE_FAULT="step.data:sleep=0.5")
    assert status == 0, output
    findings = diagnosed(run)
    assert "of a step waits for data" in findings["data"].text, findings
    assert "data.prefetch" in findings["data"].remedy


def test_a_hang_names_the_reports_of_all_ranks(cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = command(cache, run, *FIELDS, "trainer.watchdog_s=5", "processes=2")
    status, output = finish(words, LONGTAKE_FAULT="step.data@rank=1,step=4:stop")
    assert status not in (0, 2), output
    findings = diagnosed(run)
    assert "hang-rank-" in findings["hang"].text + findings["hang"].remedy
