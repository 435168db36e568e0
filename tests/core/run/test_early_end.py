"""End runs early on a signal, and continue them. Run: pytest tests/core/run/test_early_end.py"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.distributed.ranks import World
from core.errors import CONTINUABLE, EndedEarly
from core.faults import failpoints
from core.records import read_rows
from core.run import early_end as early_end_module
from core.run.early_end import INTERRUPTED, EarlyEnd
from core.run.signals import SIGNALS
from tests.core import toy_run
from tests.core.ranks import finish, run_ranks, start_ranks
from tests.core.toy_run import toy_trainer
from tests.core.train.test_trainer import assert_equal_runs, rows

PROGRAM = toy_run.__file__
OPTIONS: dict[str, Any] = {"dropout": 0.3, "zero_stage": 2, "keep_last": 9}


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    toy_trainer(folder, world, **OPTIONS, validate_every=1).fit()
    return folder


def steps_kept(folder: Path) -> list[int]:
    return sorted(entry.step for entry in CheckpointStore(folder / "checkpoints").complete())


def ended(folder: Path, world: World, fault: str, **options: Any) -> int:
    """Run until the armed signal ends it; return the step it saved."""
    failpoints.arm(fault)
    with pytest.raises(EndedEarly, match=r"; the same command continues the run \(exit status 75\)$") as end:
        toy_trainer(folder, world, **(OPTIONS | options)).fit()
    failpoints.arm("")
    assert not (folder / "finished.json").exists()
    found = re.search(r"saved after step (\d+) of \d+", str(end.value))
    assert found, end.value
    return int(found[1])


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("step.data@step=5:term", 5),
        ("step.backward@step=5:usr2", 5),
        ("step.end@step=5:int", 5),
        ("save.flush@step=3:term", 4),
    ],
)
def test_a_signal_ends_the_run_after_a_step_and_it_continues_exactly(
    world: World, tmp_path: Path, whole: Path, fault: str, step: int
) -> None:
    """It comes in the wait for data, in a step and after it, where validation is left out, and in a save."""
    at = ended(tmp_path, world, fault, validate_every=1, save_async=False)
    assert at == step
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, at + 1))
    assert steps_kept(tmp_path) == sorted({3, at})
    toy_trainer(tmp_path, world, **(OPTIONS | {"seed": 5}), validate_every=1).fit()
    assert_equal_runs(whole, tmp_path)
    validations = [read_rows(folder / "validation.jsonl") for folder in (whole, tmp_path)]
    assert validations[0] == validations[1]  # what the early end left out was made up for


def test_a_signal_breaks_validation_off_and_it_is_made_up_for(
    world: World, tmp_path: Path, whole: Path
) -> None:
    trainer = toy_trainer(tmp_path, world, **OPTIONS, validate_every=4)
    validation = trainer.data.validation
    assert validation is not None

    def interrupted() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return validation()

    trainer.validation._batches = interrupted  # type: ignore[union-attr]
    with pytest.raises(EndedEarly, match="saved after step 4 of 8"):
        trainer.fit()
    assert not (tmp_path / "validation.jsonl").exists()
    again = toy_trainer(tmp_path, world, **OPTIONS, validate_every=4)
    again.validation._batches = interrupted  # type: ignore[union-attr]
    with pytest.raises(EndedEarly, match="saved after step 4 of 8"):
        again.fit()
    toy_trainer(tmp_path, world, **OPTIONS, validate_every=4).fit()
    assert_equal_runs(whole, tmp_path)
    assert [row["step"] for row in read_rows(tmp_path / "validation.jsonl")] == [4, 8]


def test_a_signal_during_the_last_batch_of_validation_ends_the_run_there(
    world: World, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The validation is whole then, and no step follows, since it would be one more than was announced."""
    trainer = toy_trainer(tmp_path, world, **OPTIONS, validate_every=4)
    validation, passes = trainer.data.validation, [*trainer.ema.averages, "raw"]  # type: ignore[union-attr]

    def interrupted() -> Any:
        yield from validation()  # type: ignore[misc]
        passes.pop()
        if not passes:
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: trainer.early_end._heard)

    trainer.validation._batches = interrupted  # type: ignore[union-attr]
    with pytest.raises(EndedEarly, match="saved after step 4 of 8"):
        trainer.fit()
    assert "SIGTERM: ending after step 4 at the latest…" in capsys.readouterr().err
    assert [row["step"] for row in read_rows(tmp_path / "validation.jsonl")] == [4]
    toy_trainer(tmp_path, world, **OPTIONS, validate_every=4).fit()
    assert_equal_runs(whole, tmp_path)
    assert [row["step"] for row in read_rows(tmp_path / "validation.jsonl")] == [4, 8]


def test_an_early_end_waits_for_the_save_under_way(world: World, tmp_path: Path) -> None:
    at = ended(tmp_path, world, "save.flush@step=3:sleep=1;step.data@step=4:term")
    assert steps_kept(tmp_path) == [3, at]
    for entry in CheckpointStore(tmp_path / "checkpoints").complete():
        CheckpointReader(entry.path).verify()


def test_several_signals_are_one(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_steps = "step.data@step=5:usr2;step.forward@step=5:term;step.update@step=5:usr2;step.end@step=5:int"
    in_save = "save.receipt@step=5:term;save.receipt@step=6:term"
    at = ended(tmp_path, world, f"{in_steps};{in_save}")
    assert steps_kept(tmp_path) == [3, at]
    assert re.findall(r"SIG\w+: .*…", capsys.readouterr().err) == [
        f"SIGUSR2: ending after step {at} at the latest…"
    ]


def test_a_signal_after_the_last_step_changes_nothing(world: World, tmp_path: Path, whole: Path) -> None:
    failpoints.arm("step.end@step=8:term")
    toy_trainer(tmp_path, world, **OPTIONS).fit()
    assert (tmp_path / "finished.json").exists()
    assert_equal_runs(whole, tmp_path)


def test_amid_steps_that_are_rolled_back_later_no_checkpoint_is_made(world: World, tmp_path: Path) -> None:
    """The rollback would go to it, and not to where the uninterrupted run goes."""
    bad = "step.loss@step=5:nan;step.loss@step=6:nan;step.loss@step=7:nan"
    options: dict[str, Any] = {"max_skipped": 3, "on_skipped": "rollback", "zero_stage": 2}
    failpoints.arm(bad)
    toy_trainer(tmp_path / "whole", world, **options).fit()
    failpoints.arm(f"{bad};step.data@step=5:term")
    with pytest.raises(EndedEarly, match=r"SIGTERM, after step 5 of 8; .* are repeated then \(exit"):
        toy_trainer(tmp_path / "ended", world, **options).fit()
    assert steps_kept(tmp_path / "ended") == [3]
    failpoints.arm(bad)
    toy_trainer(tmp_path / "ended", world, **options).fit()
    assert_equal_runs(tmp_path / "whole", tmp_path / "ended")


@pytest.mark.multiprocess
def test_one_rank_of_two_is_asked_and_both_end_alike(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    fault = "fault=step.backward@rank=1,step=4:usr2"
    words = ["zero_stage=2", "dropout=0.2", "validate_every=3"]
    ranks = start_ranks(2, PROGRAM, f"--run={whole}", *words, f"--run={run}", *words, fault)
    (code_0, text_0), (code_1, text_1) = finish(ranks)
    assert (code_0, code_1) == (CONTINUABLE, CONTINUABLE), text_0 + text_1
    assert re.findall(r".*SIGUSR2: .*…", text_0 + text_1) == [
        "rank 1: SIGUSR2: ending after step 5 at the latest…"
    ]
    assert "ended early on SIGUSR2, saved after step 5 of 8" in text_0
    assert steps_kept(run) == [3, 5]
    assert not (run / "finished.json").exists()
    text, _ = run_ranks(2, PROGRAM, f"--run={run}", *words)
    assert "continuing after step 5 of 8" in text
    assert_equal_runs(whole, run)
    assert read_rows(whole / "validation.jsonl") == read_rows(run / "validation.jsonl")


def make(world: World) -> tuple[EarlyEnd, list[int]]:
    """Make one that notes with which statuses it would have ended the process."""
    statuses: list[int] = []
    return EarlyEnd(world, statuses.append), statuses


def test_before_the_first_step_it_ends_at_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    early_end, statuses = make(world)
    with early_end.catching():
        signal.raise_signal(signal.SIGUSR2)
        until(lambda: statuses)
    assert statuses == [CONTINUABLE]
    assert "SIGUSR2: ending before the first step" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_at_once(world: World) -> None:
    early_end, statuses = make(world)
    with early_end.catching():
        early_end.begin(3, 10)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert early_end.flag(3)
        until(lambda: len(early_end._heard) == 2)
        assert statuses == []
        signal.raise_signal(signal.SIGINT)
        until(lambda: statuses)
    assert statuses == [INTERRUPTED]


def test_a_signal_that_breaks_off_work_between_steps_is_told_of_however_late_the_thread_is(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    early_end, _ = make(world)
    early_end.begin(3, 10)
    assert not early_end.asked(4)
    early_end.raise_flag(signal.SIGTERM)
    assert early_end.asked(4)
    early_end.note(signal.SIGTERM)
    assert capsys.readouterr().err == "SIGTERM: ending after step 4 at the latest…\n"


def test_a_signal_after_the_last_question_is_the_next_steps(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    early_end, _ = make(world)
    early_end.begin(3, 10)
    assert not early_end.asked(4, again=False)
    early_end.raise_flag(signal.SIGTERM)
    early_end.note(signal.SIGTERM)
    assert early_end.flag(4)
    assert capsys.readouterr().err == "SIGTERM: ending after step 5 at the latest…\n"


def test_handlers_come_back_unless_the_process_is_to_end(world: World, tmp_path: Path) -> None:
    early_end, _ = make(world)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with early_end.catching():
        assert all(signal.getsignal(number) is not handler for number, handler in before.items())
        early_end.begin(3, 10)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    with early_end.catching():
        early_end.over(tmp_path, 4, saved=True)
    ignored = dict.fromkeys(SIGNALS, signal.SIG_IGN) | {signal.SIGINT: before[signal.SIGINT]}
    assert {number: signal.getsignal(number) for number in SIGNALS} == ignored


def test_another_thread_leaves_signals_alone(world: World) -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with EarlyEnd(world).catching():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_supervisors_request_is_looked_for_once_a_second_however_short_steps_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks, answers = [100.0], [], ["", "", "preempted"]
    monkeypatch.setattr(early_end_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        early_end_module.ends, "end_asked", lambda: looks.append(now[0]) or answers[len(looks) - 1]
    )
    early_end, _ = make(world)
    flags = []
    for step in range(100):
        flags.append(early_end.flag(step))
        now[0] += 0.03125
    assert looks == [100.0, 101.0, 102.0]
    assert flags == [False] * 64 + [True] * 36


def test_a_rank_but_the_first_asks_the_file_system_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_end_module.ends, "end_asked", lambda: pytest.fail("a rank asked"))
    early_end, _ = make(World(3, 8, 3, torch.device("cpu")))
    assert not any(early_end.flag(step) for step in range(4))
