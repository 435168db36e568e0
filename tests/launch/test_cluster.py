"""Submissions without a SLURM: what is refused, and jobs on this machine.

Run: pytest tests/launch/test_cluster.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from core.config import loading
from core.errors import UserError
from core.root import ROOT
from core.run.code import RECORD, code, read
from launch.cluster import records, slurm, submit
from launch.cluster.config import ClusterConfig
from launch.cluster.snapshot import copy_code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster: {minutes: 0}", "cluster.minutes=0: expected an integer, at least 1"),
        ("cluster: {nods: 2}", "cluster.nods: no such field; the nearest is cluster.nodes"),
        (
            "cluster:\n  minutes: 4:00:00\n",
            "cluster.minutes=4:00:00: expected a whole number of minutes; YAML reads such a time as a number "
            "to base 60 (in {file})",
        ),
        ("cluster: {kind: local, nodes: 2}", "cluster.nodes=2: expected 1 with kind=local"),
        ("cluster: {environment: [x]}", "cluster.environment=x: expected NAME=value"),
    ],
)
def test_a_wrong_cluster_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        submit.main(["export", "run", f"output={tmp_path}/out", str(file)])
    assert message.format(file=file) in str(caught.value)


def test_a_job_of_one_process_gets_one_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nodes=2: expected one task, since export runs in one"):
        submit.main(["export", "run", f"output={tmp_path}/out", "cluster.nodes=2"])


@pytest.mark.parametrize("job", ["sample", "encode"])
def test_tasks_of_an_array_do_not_overwrite(tmp_path: Path, job: str) -> None:
    words = [job, "source", f"output={tmp_path}/out", "overwrite=true", "cluster.array=2"]
    with pytest.raises(UserError, match=r"^overwrite=true: expected false, since tasks of an array would"):
        submit.main([*words, *(["autoencoder=there"] if job == "encode" else [])])


def test_without_slurm_the_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"cluster.kind=slurm: expected local or inline"):
        slurm.require(ClusterConfig())


def test_the_batch_script(tmp_path: Path) -> None:
    config = ClusterConfig(
        nodes=2,
        tasks_per_node=8,
        cpus_per_task=12,
        minutes=1440,
        partition="gpu",
        gpus_per_node="8",
        memory_gib=0,
        sbatch=("reservation=x", "exclusive"),
        setup=("module load cuda",),
        environment=("NCCL_DEBUG=WARN",),
    )
    found = slurm.parameters(config, "run-1", ["17"], Path("/code"))
    lines = slurm.script_text(Path("/logs"), found).splitlines()
    options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert options == [
        "cpus-per-task=12",
        "dependency=afterok:17",
        "exclusive",
        "gpus-per-node=8",
        "job-name=run-1",
        "kill-on-invalid-dep=yes",
        "mem=0",
        "nodes=2",
        "ntasks-per-node=8",
        "open-mode=append",
        "output=/logs/%j_0_log.out",
        "partition=gpu",
        "requeue",
        "reservation=x",
        "signal=B:USR2@120",
        "time=1440",
    ]
    assert lines[lines.index("# setup") + 1 : lines.index("# command")] == [
        "export NCCL_DEBUG=${NCCL_DEBUG-WARN}",
        "module load cuda",
        "export PYTHONPATH=/code${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1",
        "",
    ]
    # It takes the shell's place, for SLURM's signal goes to the script alone.
    assert [line for line in lines if line][-1] == f"exec {sys.executable} -u -m submitit.core._submit /logs"


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_controller_that_is_away_for_a_while_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    away = "echo 'error: Unable to contact slurm controller' >&2; exit 1"
    third = f"[ $(wc -l < {tmp_path}/calls) = 3 ] && echo JobState=RUNNING && exit"
    fake(tmp_path, "scontrol", f"echo >> {tmp_path}/calls; {third}; {away}")
    waited: list[float] = []
    assert slurm.command(["scontrol", "show"], waits_s=(1, 2), sleep=waited.append) == "JobState=RUNNING\n"
    assert waited == [1, 2]
    fake(tmp_path, "scontrol", away)
    with pytest.raises(slurm.WorkError, match="scontrol show: error: Unable to contact slurm controller"):
        slurm.command(["scontrol", "show"], waits_s=(1,), sleep=waited.append)
    fake(tmp_path, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.command(["scontrol", "show"]) == ""


def test_one_submission_at_a_time(tmp_path: Path) -> None:
    with (
        records.locked(tmp_path),
        pytest.raises(UserError, match=rf"is being submitted by process {os.getpid()} of \w+ on .* for 0 s"),
        records.locked(tmp_path),
    ):
        pass
    lock = tmp_path / "submissions/lock"
    assert not lock.exists()
    gone = subprocess.Popen(["true"])
    gone.wait()
    lock.write_text(json.dumps({"node": records.environment.node(), "pid": gone.pid, "user": "x", "time": 0}))
    with records.locked(tmp_path):  # of a submitter that was killed
        pass


JOB = ("digits", "digits=100", "clips=0")


def submitted(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LONGTAKE_CACHE": str(tmp_path / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "launch", *words],
        cwd=tmp_path,
        env=environment,
        check=False,
        text=True,
        capture_output=True,
        timeout=120,
    )


def test_a_job_runs_in_the_background_and_one_after_another(tmp_path: Path) -> None:
    """And from a copy of the code, in the folder where it was submitted."""
    first = submitted(tmp_path, "submit", *JOB, "output=first", "cluster.kind=local")
    assert first.returncode == 0, first.stderr
    after = submitted(
        tmp_path, "submit", "shard", "first/train", "output=raw", "cluster.kind=local", "after=first"
    )
    assert after.returncode == 0, after.stderr
    limit = time.monotonic() + 120
    while "done" not in (listed := submitted(tmp_path, "jobs").stdout.splitlines()[-1]):
        assert time.monotonic() < limit, submitted(tmp_path, "logs", "raw").stdout + listed
    assert listed.split()[:3] == [str(tmp_path / "raw"), "done", "1"]
    assert (tmp_path / "raw/dataset.json").exists()
    assert (tmp_path / "raw/submissions/0001/code/core/root.py").exists()
    assert "samples in 1 shard" in submitted(tmp_path, "logs", "raw").stdout
    assert submitted(tmp_path, "cancel", "raw").stderr == "raw: done before\n"


def test_a_job_runs_in_the_foreground_and_why_it_failed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/one.png")
    monkeypatch.setenv("LONGTAKE_FAULT", "shard.sample:raise")
    done = submitted(tmp_path, "submit", "shard", "photos", "output=out", "cluster.kind=inline")
    assert done.returncode == 1, done.stderr
    reason = "longtake shard: failpoint shard.sample raised as LONGTAKE_FAULT asks"
    listed = submitted(tmp_path, "jobs", "out").stdout.splitlines()[-1]
    assert listed.split()[:3] == ["out", "failed", "1"]
    assert listed.endswith(reason)
    assert submitted(tmp_path, "logs", "out").stdout.endswith(f"{reason}\n")


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("out", "after=out: expected another output than the job's own"),
        ("12", "after=12: expected the output of a job submitted to this machine with cluster.kind=local"),
        ("never", "source=never: expected the output of a job that was submitted"),
    ],
)
def test_what_a_job_cannot_wait_for_is_refused(tmp_path: Path, after: str, message: str) -> None:
    done = submitted(tmp_path, "submit", *JOB, "output=out", "cluster.kind=local", f"after={after}")
    assert (done.returncode, done.stderr) == (2, f"longtake submit: {message}\n")


def test_a_submission_prints_the_script_and_stops(tmp_path: Path) -> None:
    done = submitted(tmp_path, "submit", *JOB, "output=out", "cluster.partition=gpu", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --partition=gpu" in done.stdout
    assert not (tmp_path / "out").exists()
    assert loading.dump(ClusterConfig(partition="gpu")).splitlines()[0] in done.stdout


def test_a_copy_of_the_code_says_which_commit_it_is_of(tmp_path: Path) -> None:
    """A job that is submitted from a copy says so too: in a copy, git is not asked."""
    copy_code(tmp_path / "code")
    assert read(json.loads((tmp_path / "code" / RECORD).read_text())) == code()
    assert code(tmp_path / "code") == code()


def test_a_run_that_cannot_fit_is_submitted_by_force_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> list[str]:
        raise UserError("the run takes 60 GB of 40 on each a100-40gb (force=true submits it as it is)")

    monkeypatch.setattr(submit, "require_fit", refuse)
    words = [*JOB, f"output={tmp_path / 'out'}", "--dry-run"]
    with pytest.raises(UserError, match="force=true"):
        submit.main(words)
    assert submit.main([*words, "force=true"]) == 0
    assert "sbatch" in capsys.readouterr().out
