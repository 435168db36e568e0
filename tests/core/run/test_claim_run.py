"""Claim the folder of a training run, which may be restarted, corrected before its first step, or alive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.config import loading
from core.errors import UserError, WorkError
from core.run.claim import claim_run
from core.run.run_lock import RunLock
from tests.core.run.claimed_job import Job, take
from tests.core.run.test_run_lock import living_owner


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restart_does_not_remove_what_the_start_with_overwrite_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    job = Job(overwrite=True)
    checkpoint = tmp_path / "checkpoints"
    monkeypatch.setenv(name, "0")
    take(tmp_path, job)
    checkpoint.mkdir()
    assert claim_run(tmp_path, job, done="done.json")
    assert not checkpoint.exists()
    assert "leave overwrite=true out" in capsys.readouterr().err
    checkpoint.mkdir()
    monkeypatch.setenv(name, "1")
    assert claim_run(tmp_path, job, done="done.json")
    assert checkpoint.exists()
    assert "continues, since this is a restart" in capsys.readouterr().err
    (tmp_path / "done.json").write_text("{}")
    assert not claim_run(tmp_path, job, done="done.json")


def test_a_requeued_job_does_not_take_an_older_run_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first start died before it came to the folder, where another job's finished run lies."""
    assert claim_run(tmp_path, Job(), done="done.json")
    RunLock(tmp_path).acquire()
    (tmp_path / "done.json").write_text("{}")
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not claim_run(tmp_path, Job(), done="done.json")  # it is the same run, and was to be continued
    assert claim_run(tmp_path, Job(overwrite=True), done="done.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]
    RunLock(tmp_path).acquire()
    (tmp_path / "metrics.jsonl").touch()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert claim_run(tmp_path, Job(overwrite=True), done="done.json")
    assert (tmp_path / "metrics.jsonl").exists()


def test_removing_an_older_run_ends_with_what_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_run(tmp_path, Job(), done="z.json")
    RunLock(tmp_path).acquire()
    for name in ("a", "metrics.jsonl", "z.json"):
        (tmp_path / name).touch()
    removed: list[str] = []
    unlink = Path.unlink

    def note(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", note)
    claim_run(tmp_path, Job(overwrite=True), done="z.json")
    removed = [name for name in removed if not name.startswith(".tmp-")]
    assert (removed[0], sorted(removed[1:3]), removed[3:]) == (
        "z.json",
        ["a", "metrics.jsonl"],
        ["run.lock", "config.yaml"],
    )


def test_a_config_that_failed_before_the_first_step_may_be_corrected(tmp_path: Path) -> None:
    assert claim_run(tmp_path, Job(size=1), done="done.json")
    (tmp_path / "latents.json").touch()
    assert claim_run(tmp_path, Job(size=2), done="done.json")
    assert loading.load(Job, [tmp_path / "config.yaml"]).size == 2
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="size=3: expected 2, with which"):
        claim_run(tmp_path, Job(size=3), done="done.json")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").touch()
    with pytest.raises(UserError, match="a new or empty folder"):
        claim_run(foreign, Job(), done="done.json")
    assert (foreign / "letter.txt").exists()


def test_the_folder_of_a_living_run_is_not_removed(tmp_path: Path) -> None:
    take(tmp_path)
    with living_owner(tmp_path) as process:
        with pytest.raises(WorkError, match=f"is being written by process {process} on this host"):
            claim_run(tmp_path, Job(overwrite=True), done="done.json")
        assert (tmp_path / "config.yaml").exists()
    assert claim_run(tmp_path, Job(overwrite=True), done="done.json")
    assert not (tmp_path / "run.lock").exists()
    RunLock(tmp_path).acquire()


@pytest.mark.parametrize("field", ["source", "also"])
def test_a_finished_run_is_not_that_of_other_data_at_the_same_place(tmp_path: Path, field: str) -> None:
    job = Job(output=tmp_path, source="data", also=("more",))
    given = {"source": "a", "also": "b"}
    recorded = dict(given)

    def contents(path: str) -> tuple[dict[str, str] | None, dict[str, str]]:
        return {"cache": recorded[path]}, {"cache": given[path]}

    assert claim_run(tmp_path, job, done="done.json", contents=contents)
    (tmp_path / "done.json").write_text("{}")
    assert not claim_run(tmp_path, job, done="done.json", contents=contents)
    given[field] = "c" * 20
    with pytest.raises(
        UserError, match=rf"{field}=.*: expected what it held, with cache={recorded[field]}; .* c+ now"
    ):
        claim_run(tmp_path, job, done="done.json", contents=contents)
    assert not claim_run(tmp_path, job, done="done.json", contents=lambda path: (None, {}))
    assert claim_run(tmp_path, replace(job, overwrite=True), done="done.json", contents=contents)
