"""Open files within one budget: the least recently used one goes, of any owner, and is opened again."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.reading import open_files
from core.reading.open_files import FILES, KeptFiles, message_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 8)
    return tmp_path


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> int:
    FILES.let_go()
    monkeypatch.setattr(FILES, "most", lambda: 4)
    return 4


class Opened:
    """Opens the files of a folder, and notes which."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.numbers, self.files = folder, [], KeptFiles()

    def __call__(self, number: int):
        self.numbers.append(number)
        return open(self.folder / str(number), "rb", buffering=0)

    def read(self, number: int) -> bytes:
        file = self.files.get(number, self)
        return os.pread(file.fileno(), 8, 0)


def test_all_owners_share_the_budget_and_the_least_recently_used_goes(folder: Path, budget: int) -> None:
    first, second = Opened(folder), Opened(folder)
    for number in (0, 1, 2):
        first.read(number)
    first.read(0)
    second.read(0)
    assert len(FILES) == budget
    second.read(1)  # in place of 1 of the first owner, which was used before 2 and 0
    assert len(FILES) == budget
    for number in (0, 2):
        first.read(number)
    assert (first.numbers, second.numbers) == ([0, 1, 2], [0, 1])
    first.read(1)
    assert first.numbers == [0, 1, 2, 1]
    del second
    assert len(FILES) <= 3  # with its owner a file goes


def test_files_in_order_are_opened_once(folder: Path, budget: int) -> None:
    opened = Opened(folder)
    for number in range(12):
        for _ in range(5):
            assert opened.read(number) == bytes([number]) * 8
    assert opened.numbers == list(range(12))


def test_a_file_that_is_held_stays_open(folder: Path, budget: int) -> None:
    opened = Opened(folder)
    held = opened.files.get(0, opened)
    for number in range(1, 12):
        opened.read(number)
    assert os.pread(held.fileno(), 8, 0) == bytes(8)
    descriptor = held.fileno()
    del held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_threads_read_through_a_budget_of_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FILES, "most", lambda: 1)
    owners = [Opened(folder) for _ in range(3)]
    reads = [(owners[turn % 3], turn % 12) for turn in range(600)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda read: read[0].read(read[1]), reads))
    assert found == [bytes([number]) * 8 for _, number in reads]
    assert len(FILES) == 1


def test_where_descriptors_are_lacking_all_that_is_kept_goes_first(folder: Path, budget: int) -> None:
    opened = Opened(folder)
    for number in range(3):
        opened.read(number)

    def lacking(number: int):
        if len(FILES):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(number))
        return opened(number)

    opened.files.get(3, lacking)
    assert len(FILES) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_lasting_lack_is_told_with_the_limit(folder: Path, number: int) -> None:
    def lacking(_: int):
        raise OSError(number, os.strerror(number), "x.tar")

    with pytest.raises(OSError, match=r"x\.tar") as raised:
        KeptFiles().get(0, lacking)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f"x.tar: {os.strerror(number)}; this process may have {soft} (RLIMIT_NOFILE" in message_of(
        raised.value
    )
    assert message_of(FileNotFoundError(errno.ENOENT, "no", "x.tar")) == "x.tar: no"


@pytest.mark.parametrize(
    ("limit", "files"), [(16, 1), (64, 16), (256, 112), (1024, 496), (2**20, 4096), (-1, 4096)]
)
def test_the_budget_follows_the_limit(monkeypatch: pytest.MonkeyPatch, limit: int, files: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert open_files.files_budget() == files


def test_the_launcher_raises_the_soft_limit_and_refuses_one_that_is_too_low(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from launch import cli\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[1:3])))\n"
        "sys.argv[1:] = ['inspect', 'nowhere']\n"
        "status = cli.main(); print(status, *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )

    def run(soft: int, hard: int) -> tuple[str, str]:
        command = [sys.executable, "-c", script, str(soft), str(hard)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip(), done.stderr

    status, error = run(70, 90)
    assert status == "2 90 90"
    assert "nowhere" in error
    status, error = run(40, 40)
    assert status == "2 40 40"
    assert error.count("\n") == 1
    assert "RLIMIT_NOFILE" in error
    assert "40" in error
    assert "at least 64 open files" in error
