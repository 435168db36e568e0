"""The doctor: what it finds on a machine, and in the record of a run."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from core import log
from core.errors import UserError
from core.root import ROOT
from launch.cluster import records
from launch.doctor import machine, runs
from launch.doctor.command import main
from launch.doctor.finding import Finding, lines_of
from tests.launch.test_cluster import fake

RUN = ROOT / "tests/fixtures/30fc6aa/run"


def found(run: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in runs.look(run)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_this_machine_can_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    for name in ("Python", "packages", "attention", "communication", "disk", "open files", "video", "SLURM"):
        assert any(line[2:].startswith(name) for line in text.splitlines()), name
    assert "torch 2." in text


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    known = machine._version
    monkeypatch.setattr(machine, "_version", lambda name: "" if name == "deepspeed" else known(name))
    lost = [finding for finding in machine.look(Path.cwd()) if finding.state == "missing"]
    assert [finding.text for finding in lost] == ["not installed: deepspeed"]
    assert lost[0].remedy.startswith("pip install")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    (finding,) = machine._disk(tmp_path)
    assert finding.state == "missing"
    assert "cannot be written" in finding.text
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_has_nothing_wrong(run: Path) -> None:
    (run / "incidents.jsonl").unlink(missing_ok=True)
    (run / "finished.json").write_text("{}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    quick = [json.dumps({**row, "data_wait": 0.01}) for row in rows]
    (run / "metrics.jsonl").write_text("\n".join(quick) + "\n")
    assert {finding.state for finding in runs.look(run)} == {"ok"}


def test_what_went_wrong_is_said_with_what_to_do(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])
    broken = {**last, "step": last["step"] + 1, "loss": None, "seconds": 1.0, "data_wait": 0.5}
    (run / "metrics.jsonl").write_text("\n".join([*rows[:2], *[json.dumps(broken)] * 20]) + "\n")
    (run / "logs").mkdir(exist_ok=True)
    (run / "logs/hang-rank-1.txt").write_text("here")
    findings = found(run)
    assert "not finite in 20 of the last 22 rows" in findings["loss"].text
    assert "qk_norm" in findings["loss"].remedy
    assert "of a step waits for data" in findings["data"].text
    assert "hang-rank-1.txt" in findings["hang"].text
    assert "not finished" in findings["run"].text


@pytest.mark.parametrize(
    ("reason", "name", "remedy"),
    [
        ("out of memory on rank 1 in forward: CUDA out of memory", "memory", "micro_batch"),
        (str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a")), "disk full", "free some space"),
        ("20 steps in a row had non-finite gradients, up to 31", "not finite", "optimizer.lr"),
        ("something else", "error", "the same command"),
        ("run: ended early on SIGTERM, saved after step 7 of 12", "preempted", "the same command"),
    ],
)
def test_how_the_last_start_ended_is_explained(run: Path, reason: str, name: str, remedy: str) -> None:
    log.keep_in(run / "logs", 0, "start 1 (local.1) with an unknown commit")
    log.note_last(f"longtake train: {reason}", failed=name != "preempted")
    log.leave()
    assert reason in found(run)[name].text
    assert remedy in found(run)[name].remedy
    log.keep_in(run / "logs", 0, "start 2 (local.2) with an unknown commit")
    log.note("continuing after step 7 of 12")
    log.leave()
    assert name not in found(run)  # it has been started again since


@pytest.mark.parametrize(
    ("state", "reason", "said", "remedy"),
    [
        ("PENDING", "Priority", "queued: Priority", "squeue --me --start"),
        ("PENDING", "QOSMaxNodePerUserLimit", "queued: QOSMax", "fewer cluster.nodes or cluster.minutes"),
        ("PENDING", "ReqNodeNotAvail,UnavailableNodes:a1", "queued: ReqNode", "sinfo -R says why"),
        ("PENDING", "Dependency", "queued: Dependency", "the job that makes its source"),
        ("PENDING", "JobHeldUser", "queued: JobHeldUser", "scontrol release"),
        ("RUNNING", "None", "running", ""),
        ("FAILED", "NonZeroExitCode", "lost: SLURM says FAILED", "longtake submit"),
    ],
)
def test_a_run_that_waits_in_the_queue_is_told_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, reason: str, said: str, remedy: str
) -> None:
    """Before its first start there is nothing in its folder but what was submitted."""
    fake(tmp_path, "scontrol", f"echo 'JobId=7 JobName=run JobState={state} Reason={reason} Restarts=0'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run = tmp_path / "run"
    submission = records.new_submission(run)
    submission.write(job="train", cluster={"kind": "slurm"}, cwd=str(tmp_path), name="run", slurm_job=7)
    findings = found(run)
    shown = findings["job" if state != "PENDING" else "queue"]
    assert shown.text.startswith(said)
    assert remedy in shown.remedy
    assert "not finished at step 0" in findings["run"].text
    assert set(findings) == {"run", "job" if state != "PENDING" else "queue"}


def test_a_hang_is_named_by_the_watchdog_s_own_words(run: Path) -> None:
    """As `core.faults.watchdog` writes them; `tests/integration/test_doctor_runs.py` has real runs."""
    log.keep_in(run / "logs", 0, "start 1 (local.1) with an unknown commit")
    log.note_last("rank 0: nothing has moved for 1801 s in step 4 (update); the process ends", failed=True)
    log.leave()
    assert "hang-rank" in found(run)["hang"].remedy


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the folder of a training run"):
        list(runs.look(tmp_path))


def test_texts_of_others_cannot_write_on_the_terminal() -> None:
    (line,) = lines_of([Finding("job", "bad\x1b[2J\nname")])
    assert "\x1b" not in line
    assert "\n" not in line


def test_help_and_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main(["a", "b"]) == 2
    assert "usage: longtake doctor [RUN]" in capsys.readouterr().out
