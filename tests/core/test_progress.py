"""Progress as a person sees it while a job works."""

from __future__ import annotations

import io
import sys

import pytest

from core import terminal
from core.progress import Progress, duration, say


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(clock: Clock, seconds: int, *, done: int = 0) -> None:
    with Progress(10, "count", done=done, clock=clock) as counter:
        for _ in range(seconds):
            clock.now += 1
            counter.advance(note="loss 0.5")


def fail(clock: Clock) -> None:
    with Progress(10, "count", clock=clock) as counter:
        clock.now += 1
        counter.advance(3)
        raise KeyError


def test_plain_lines_come_at_most_every_five_seconds_and_a_last_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    work(Clock(), 10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "count: 5/10 samples (50 %), 1/s, 5.0 s left, loss 0.5",
        "count: 10/10 samples (100 %), 1/s, 0.0 s left, loss 0.5",
        "count: 10 samples in 10 s, 1/s, loss 0.5",
    ]


def test_rate_leaves_out_what_was_done_before(capsys: pytest.CaptureFixture[str]) -> None:
    work(Clock(), 5, done=5)
    assert capsys.readouterr().err.splitlines()[-1] == "count: 5 samples in 5.0 s, 1/s, 10 in all, loss 0.5"


def test_terminal_sees_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "40")
    work(Clock(), 3)
    shown = screen.getvalue()
    assert shown.count("\n") == 1
    assert shown.count(terminal.CLEAR_LINE) == 4
    assert all(len(part.rstrip("\n")) < 40 for part in shown.split(terminal.CLEAR_LINE))


def test_an_error_ends_the_line_where_the_work_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with pytest.raises(KeyError):
        fail(clock)
    assert capsys.readouterr().err == "count: 3/10 samples (30 %), 3/s, 2.3 s left\n"


def test_only_rank_zero_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    say("hello")
    work(Clock(), 10)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    say("hello")
    assert capsys.readouterr().err == "hello\n"


def test_nothing_to_do_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(0, "count", clock=Clock()) as counter:
        assert counter.line() == "count: 0/0 samples (100 %), 0/s"
    assert capsys.readouterr().err == "count: 0 samples in 0.0 s, 0/s\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (725, "12 min 5 s"),
        (11220, "3 h 7 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
