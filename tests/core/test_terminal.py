"""Standard streams that fail, and jobs that outlive them. Run: pytest tests/core/test_terminal.py"""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core import progress, terminal
from core.progress import Progress, say
from core.root import ROOT
from core.run import last_line

LINES = 3000
# A job that tells much on both streams in all ways, and then leaves its mark in a file.
JOB = f"""
import os, sys, warnings
from core import terminal
from core.progress import Progress, say
terminal.survive()
terminal.survive_output()
mark = open(sys.argv[1], "w")
if sys.argv[2:]:
    os.write(1, b"as of a library in C")
    os.write(2, b"as of a library in C")
with Progress({LINES}, "work") as progress:
    for number in range({LINES}):
        say(f"line {{number}}: " + "x" * 60)
        print("a library speaks", "y" * 60)
        print("and complains", file=sys.stderr)
        progress.advance()
warnings.warn("of a library")
terminal.tell("the end", to="stdout")
mark.write("done")
mark.close()
"""


class Broken(io.StringIO):
    """A stream without a descriptor that fails a number of times."""

    def __init__(self, times: int, error: Exception) -> None:
        super().__init__()
        self.times, self.error = times, error

    def write(self, text: str) -> int:
        if self.times:
            self.times -= 1
            raise self.error
        return super().write(text)


@pytest.fixture(autouse=True)
def _nothing_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_OUTPUTS", {"stdout": terminal._Output(), "stderr": terminal._Output()})


def job(mark: Path, **streams: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", JOB, str(mark)], env=environment, **streams)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed file")])
def test_what_was_lost_is_told_where_it_is_missing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Broken(2, error)
    monkeypatch.setattr(sys, "stderr", stream)
    for text in ("one", "two", "three", "four"):
        say(text)
    reason = getattr(error, "strerror", None) or str(error)
    assert stream.getvalue() == f"(2 lines were lost here: {reason})\nthree\nfour\n"


@pytest.mark.parametrize("stream", [None, Broken(10**6, OSError(5, "Input/output error"))])
def test_without_standard_error_all_goes_on(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    say("lost")
    last_line.tell("lost as well")
    with Progress(2, "work") as counter:
        counter.advance()
    assert terminal._OUTPUTS["stderr"].lost == 3


def test_a_line_of_progress_that_cannot_be_made_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise RuntimeError("no columns")

    monkeypatch.setattr(progress, "PLAIN_PERIOD_S", 0)
    with Progress(2, "work") as counter:
        monkeypatch.setattr(counter, "line", fail)
        counter.advance()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "(1 line was lost here: the progress of work could not be told: no columns)"
    assert said[1].startswith("work: 1 sample in")


@pytest.mark.parametrize("place", ["stdout", "stderr", "both"])
def test_a_job_outlives_a_full_disk_under_its_output(tmp_path: Path, place: str) -> None:
    with open("/dev/full", "wb") as full, open(os.devnull, "wb") as null:
        streams = {name: full if place in (name, "both") else null for name in ("stdout", "stderr")}
        assert job(tmp_path / "mark", **streams).wait(120) == 0
    assert (tmp_path / "mark").read_text() == "done"


def test_a_job_outlives_who_reads_its_output(tmp_path: Path) -> None:
    process = job(tmp_path / "mark", stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    process.stdout.close()
    assert process.wait(120) == 0
    assert (tmp_path / "mark").read_text() == "done"


@pytest.mark.parametrize("pipe", [True, False], ids=["pipe", "terminal"])
def test_a_job_outlives_a_reader_that_has_stopped_reading(tmp_path: Path, pipe: bool) -> None:
    reader, writer = os.pipe() if pipe else pty.openpty()
    process = job(tmp_path / "mark", stdout=writer, stderr=writer)
    assert process.wait(120) == 0  # with far more than fits
    assert os.get_blocking(writer)
    assert (tmp_path / "mark").read_text() == "done"
    os.close(writer)
    os.close(reader)


def test_a_job_outlives_its_terminal(tmp_path: Path) -> None:
    mine, theirs = pty.openpty()
    process = job(tmp_path / "mark", stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.read(mine, 10)
    os.close(mine)
    assert process.wait(120) == 0
    assert (tmp_path / "mark").read_text() == "done"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_job_outlives_streams_that_were_closed(tmp_path: Path, closed: str) -> None:
    """What is printed gets into no file that the job opens."""
    script = f'exec "$0" -c "$1" "$2" raw {closed}'
    words = ["bash", "-c", script, sys.executable, JOB, str(tmp_path / "mark")]
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, capture_output=True
    )
    assert done.returncode == 0
    assert (tmp_path / "mark").read_text() == "done"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["demo", "--dry-run"]])
def test_what_was_asked_for_is_not_lost_in_silence(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
        done = subprocess.run(
            [sys.executable, "-m", "launch", *words], env=environment, stdout=full, stderr=-1, text=True
        )
    assert done.returncode == 1
    assert done.stderr.endswith("No space left on device\n")
    assert done.stderr.count("\n") == 1


def test_a_name_that_no_encoding_has_is_shown_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with open(writer, "w", encoding="ascii") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        say("a name: \udcff ä")
    with open(reader, encoding="ascii") as read:
        assert read.read() == "a name: \\udcff \\xe4\n"
