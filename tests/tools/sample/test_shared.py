"""Workers of one sampling job that join, leave, are killed, disagree, or meet samples that fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from core import environment
from core.errors import CONTINUABLE, UserError, WorkError
from core.files import write_json
from core.queue.leases import Leases
from core.queue.shared_job import LEASES
from core.root import ROOT
from core.run.ending import end_with
from launch import local
from tests.tools.made_runs import make_run
from tests.tools.sample.sample_runs import BATCH, COUNT, QUEUE, config, content, start_worker
from tools.runs.samples import Samples
from tools.sample import batches
from tools.sample import job as sample
from tools.sample.record import describing

UNITS = COUNT // BATCH
SLOW = "sample.batch:sleep=0.2"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


@pytest.fixture
def alone(run: Path) -> dict[str, bytes]:
    """Return what one process makes."""
    sample.run(config(run, "alone"))
    return content(run.parent / "alone")


def until_at_work(output: Path, parts: int = 1) -> None:
    ends = time.monotonic() + 60
    while len(list(output.glob("parts/part-*"))) < parts or not list(output.glob(f"{LEASES}/*.lease")):
        assert time.monotonic() < ends, "no worker has come so far"
        time.sleep(0.005)


def hold(output: Path, unit: str) -> Leases:
    """Have another worker, which lives, at a unit."""
    leases = Leases(output / LEASES, timeout_s=QUEUE.timeout_s, owner="node7:1")
    assert leases.claim(unit) is not None
    return leases


def interrupt(run: Path, number: int) -> None:
    """Leave `shared` as Ctrl-C does when this sample is being made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "make_latents", failing_at(number, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            sample.run(config(run, "shared"))


def failing_at(number: int, error: BaseException) -> Any:
    """`batches.make_latents` that fails whenever a sample is asked for."""
    generate = batches.make_latents

    def fail(*arguments: Any) -> Tensor:
        if number in arguments[2]:
            raise error
        return generate(*arguments)

    return fail


@pytest.mark.multiprocess
def test_a_killed_worker_and_one_that_joins_late_change_no_byte(run: Path, alone: dict[str, bytes]) -> None:
    settings, output = config(run, "shared"), run.parent / "shared"
    first, second = start_worker(settings, SLOW), start_worker(settings, SLOW)
    until_at_work(output)
    first.kill()
    third = start_worker(settings)
    for worker in (first, second, third):
        worker.join(60)
    assert [worker.exitcode for worker in (first, second, third)] == [-signal.SIGKILL, 0, 0]
    assert content(output) == alone


@pytest.mark.multiprocess
@pytest.mark.parametrize("fault", ["sample.batch:kill", "sample.publish:kill"])
def test_the_same_command_goes_on_at_once_after_a_kill(
    run: Path, alone: dict[str, bytes], fault: str
) -> None:
    killed = start_worker(config(run, "shared"), fault)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert list((run.parent / "shared" / LEASES).glob("*.lease"))
    began = time.monotonic()
    sample.run(config(run, "shared"))
    assert time.monotonic() - began < QUEUE.timeout_s / 2
    assert content(run.parent / "shared") == alone


@pytest.mark.multiprocess
def test_sigterm_gives_the_batch_back_and_is_told_to_the_supervisor(
    run: Path, alone: dict[str, bytes]
) -> None:
    output, attempt = run.parent / "shared", run.parent / "attempt"
    attempt.mkdir()
    worker = start_worker(config(run, "shared"), SLOW, attempt)
    until_at_work(output)
    os.kill(worker.pid or 0, signal.SIGTERM)
    worker.join(60)
    assert worker.exitcode == CONTINUABLE
    assert list((output / LEASES).glob("*.lease")) == []
    end = json.loads((attempt / "rank-0.json").read_text())
    assert (end["kind"], end["status"]) == ("asked", CONTINUABLE)
    sample.run(config(run, "shared"))
    assert content(output) == alone


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"seed": 1}, "^seed=1: expected 0"),
        ({"checkpoint": "step-00000009.0"}, "^checkpoint=step-00000009.0: expected "),
        ({"prompts": ("a cat",)}, "^prompts="),
        ({"count": 15}, "^count=15: expected 14"),
    ],
)
def test_a_worker_that_joins_with_something_else_is_refused(
    run: Path, fields: dict[str, Any], refused: str
) -> None:
    output = run.parent / "shared"
    interrupt(run, 2)
    hold(output, "000002-000003")
    write_json(run / "checkpoints" / "step-00000009.0" / "manifest.json", {"number": 2})
    before = content(output)
    with pytest.raises(UserError, match=refused):
        sample.run(config(run, "shared", **fields))
    assert content(output) == before


def test_of_workers_that_begin_at_once_the_first_chooses_the_checkpoint(
    run: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later worker has found a newer one, and goes on with the first one's."""
    output, begin = run.parent / "shared", describing.begin
    write_json(run / "checkpoints" / "step-00000009.0" / "manifest.json", {"number": 2})

    def late(folder: Path, now: Any) -> Any:
        assert now["checkpoint"] == "step-00000009.0"
        shutil.copy(run.parent / "alone/made_from.json", output)
        return begin(folder, now)

    monkeypatch.setattr(describing, "begin", late)
    sample.run(config(run, "shared"))
    assert content(output) == alone


def test_samples_that_fail_again_and_again_are_named_and_nothing_is_published(
    run: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = run.parent / "shared"
    with monkeypatch.context() as patch:
        patch.setattr(batches, "make_latents", failing_at(4, RuntimeError("out of luck")))
        for _ in range(2):  # the second tries again
            with pytest.raises(WorkError, match=r"1 of 7 parts failed .*: samples 4 to 5: .*out of luck"):
                sample.run(config(run, "shared"))
    assert {path.name for path in output.iterdir()} == {"config.yaml", "made_from.json", "parts", LEASES}
    assert len(list((output / "parts").iterdir())) == UNITS - 1
    sample.run(config(run, "shared"))
    assert content(output) == alone


def test_a_device_that_fails_ends_the_worker_and_blames_no_samples(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        batches, "make_latents", failing_at(4, RuntimeError("CUDA error: unspecified launch"))
    )
    with pytest.raises(RuntimeError, match="CUDA error"):
        sample.run(config(run, "shared"))
    assert [path.name for path in (run.parent / "shared" / LEASES).iterdir()] == ["units.json"]


def test_a_part_that_is_damaged_while_others_work_is_made_anew_before_publishing(
    run: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    output, generate, made = run.parent / "shared", batches.make_latents, list[list[int]]()
    interrupt(run, 6)
    hold(output, "000000-000001")  # which is done
    path = output / "parts/part-000002-000003.npz"
    path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.setattr(batches, "make_latents", lambda *a: made.append(a[2].tolist()) or generate(*a))
    sample.run(config(run, "shared"))
    assert sorted(made[:-1]) == [[6, 7], [8, 9], [10, 11], [12, 13]]
    assert made[-1] == [2, 3]
    assert "part-000002-000003.npz is not used: it is" in capfd.readouterr().err
    assert content(output) == alone


@pytest.mark.full
def test_a_part_that_is_damaged_whenever_it_is_written_ends_the_job(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = batches.Parts.write

    def damaging(parts: Any, rows: range, made: Any) -> None:
        write(parts, rows, made)
        if rows.start == 2:
            parts.path(rows).write_bytes(b"PK")

    monkeypatch.setattr(batches.Parts, "write", damaging)
    with pytest.raises(WorkError, match=r"part-000002-000003\.npz: it is .*the same command makes it anew"):
        sample.run(config(run, "shared"))


def test_a_worker_with_another_batch_takes_the_units_of_the_first(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, generate = run.parent / "shared", batches.make_latents
    interrupt(run, 2)
    made = list[list[int]]()
    monkeypatch.setattr(batches, "make_latents", lambda *a: made.append(a[2].tolist()) or generate(*a))
    sample.run(config(run, "shared", batch=100))
    assert made == [[number, number + 1] for number in range(2, COUNT, 2)]
    assert Samples.read(output).count == COUNT


@pytest.mark.parametrize("text", ["{", '{"samples": 0}'])
def test_a_damaged_cut_is_said(run: Path, text: str) -> None:
    folder = run.parent / "shared" / LEASES
    interrupt(run, 2)
    (folder / "units.json").write_text(text)
    with pytest.raises(WorkError, match=r"units\.json: .*; without .*\.leases, which holds no samples"):
        sample.run(config(run, "shared"))
    shutil.rmtree(folder)
    sample.run(config(run, "shared"))


def test_overwriting_under_another_worker_is_refused(run: Path) -> None:
    output = run.parent / "shared"
    sample.run(config(run, "shared"))
    hold(output, "000002-000003")
    with pytest.raises(UserError, match="overwrite=true: expected false while node7:1 is at samples 2 to 3"):
        sample.run(config(run, "shared", overwrite=True))
    Samples.read(output).verify()


def test_a_worker_that_comes_when_all_is_published_leaves_nothing(
    run: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked before another one had finished."""
    monkeypatch.setattr(sample, "look", lambda *_: (None, ""))
    sample.run(config(run, "alone"))
    assert content(run.parent / "alone") == alone


@pytest.mark.full
@pytest.mark.multiprocess
def test_ranks_started_together_overwrite_once(run: Path, alone: dict[str, bytes]) -> None:
    """Each holds its own opinion of what is there, and only the first removes it."""
    output = run.parent / "shared"
    sample.run(config(run, "shared", seed=1))
    assert content(output) != alone
    assert run_on_ranks(run, "shared", overwrite=True) == 0
    assert content(output) == alone


@pytest.mark.multiprocess
def test_a_rank_that_is_killed_ends_no_other(
    run: Path, alone: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 makes nothing before rank 1 has died at its first batch."""
    assert run_on_ranks(run, "shared", dies=True) == 0
    said = capfd.readouterr().err
    assert "longtake sample: rank 1 was ended by SIGKILL\n" in said
    assert "longtake sample: complete all the same" in said
    assert content(run.parent / "shared") == alone


def run_on_ranks(run: Path, name: str, *, dies: bool = False, overwrite: bool = False) -> int:
    """Two ranks of our launcher; its status."""
    script = "import sys; from tests.tools.sample import test_shared as t; t.be_rank(*sys.argv[1:])"
    words = [str(run), name, str(int(dies)), str(int(overwrite))]
    done, folder = run.parent / name / "samples.json", run.parent / "launcher"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        return local.start([sys.executable, "-c", script, *words], 2, folder, "sample", done, shares=True)


def be_rank(run: str, name: str, dies: str, overwrite: str) -> None:
    """Do what each rank does."""
    generate, dying = batches.make_latents, Path(run).parent / "dying"

    def fall(*arguments: Any) -> Tensor:
        if environment.rank() == 1:
            dying.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        while not dying.exists():
            time.sleep(0.01)
        return generate(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        make_run(Path(run).parent / f"weights-{environment.rank()}", patch)  # the same weights
        if int(dies):
            patch.setattr(batches, "make_latents", fall)
        settings = config(Path(run), name, overwrite=bool(int(overwrite)))
        end_with(lambda: sample.run(settings))
