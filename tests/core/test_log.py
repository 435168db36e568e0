"""Run: pytest tests/core/test_log.py"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import log
from core.progress import Progress, say
from core.run.last_line import tell

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) rank (\d+): (.*)")


@pytest.fixture(autouse=True)
def _no_file() -> Iterator[None]:
    log.leave()
    yield
    log.leave()


def lines(path: Path) -> list[tuple[str, ...]]:
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(found)
    return [match.groups() for match in found if match]


def test_a_line_has_time_level_and_rank_and_the_terminal_sees_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.keep_in(tmp_path / "logs", 0, "start 1")
    say("continuing after step 3")
    say("warning: weak average")
    tell("longtake train: no space", failed=True)
    assert lines(tmp_path / "logs" / "rank-0.log") == [
        ("INFO", "0", "start 1"),
        ("INFO", "0", "continuing after step 3"),
        ("WARNING", "0", "weak average"),
        ("ERROR", "0", "longtake train: no space"),
    ]
    shown = capsys.readouterr().err
    assert shown == "continuing after step 3\nwarning: weak average\nlongtake train: no space\n"


def test_what_others_wrote_makes_no_line_of_its_own(tmp_path: Path) -> None:
    log.keep_in(tmp_path, 0, "start 1")
    say("sample a\n2026-01-01T00:00:00.000Z INFO rank 0: all is well\x1b[2J")
    assert len(lines(tmp_path / "rank-0.log")) == 2
    assert "\x1b" not in (tmp_path / "rank-0.log").read_text()


def test_lines_from_before_the_folder_was_known_come_first_in_the_order_of_time(tmp_path: Path) -> None:
    say("4 samples")
    log.keep_in(tmp_path, 0, "start 1")
    say("more")
    path = tmp_path / "rank-0.log"
    assert [text for *_, text in lines(path)] == ["start 1", "4 samples", "more"]
    times = [line.partition(" ")[0] for line in path.read_text().splitlines()]
    assert times == sorted(times)


def test_what_is_not_kept_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "KEPT", 3)
    log.leave()
    for number in range(5):
        say(str(number))
    log.keep_in(tmp_path, 0, "start 1")
    told = [text for *_, text in lines(tmp_path / "rank-0.log")]
    assert told == ["start 1", "2 lines before this are not kept, since more than 3 came", "2", "3", "4"]


def test_another_start_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for number in (1, 2):
        log.keep_in(tmp_path, 0, f"start {number}")
        say("working")
        log.leave()
        say("of no run")
    told = [text for *_, text in lines(tmp_path / "rank-0.log")]
    assert told == ["start 1", "working", "start 2", "of no run", "working"]


def test_another_rank_has_a_file_from_its_first_line_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    log.keep_in(tmp_path, 3, "start 1")
    say("what rank 0 says")
    assert list(tmp_path.iterdir()) == []
    tell("SIGTERM: ending")
    assert lines(tmp_path / "rank-3.log") == [("INFO", "3", "start 1"), ("INFO", "3", "SIGTERM: ending")]


def test_progress_is_not_logged(tmp_path: Path) -> None:
    log.keep_in(tmp_path, 0, "start 1")
    with Progress(2, "count") as progress:
        progress.advance(2)
    assert len(lines(tmp_path / "rank-0.log")) == 1


def test_a_full_disk_ends_nothing_and_what_is_missing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file in place of the folder")
    log.keep_in(tmp_path / "logs", 0, "start 1")
    say("one")
    (tmp_path / "logs").unlink()
    say("two")
    told = (tmp_path / "logs" / "rank-0.log").read_text()
    assert "(2 lines are missing here: " in told
    assert "two" in told
    assert capsys.readouterr().err.count("does not take the log") == 1


def test_other_loggers_do_not_get_the_lines() -> None:
    """Libraries give the root logger handlers, which would show every line twice."""
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    say("once")
    logging.getLogger().removeHandler(handler)
    assert seen == []
