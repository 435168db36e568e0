"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from core.files import (
    TEMPORARY_PREFIX,
    atomic_file,
    fingerprint,
    published,
    published_below,
    read_bytes,
    sha256_file,
    temporaries,
    temporary_name,
    write_json,
    write_text,
    write_text_once,
)
from core.root import ROOT


def test_a_file_appears_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    for content in (b"first", b"second"):
        with atomic_file(path) as file:
            file.write(content)
            before = path.read_bytes() if path.exists() else None
        assert before != content
        assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def fail_half_way(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise KeyError


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(KeyError):
        fail_half_way(tmp_path / "file")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


def test_a_write_beyond_the_limit_of_the_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The operating system refuses after 1000 bytes, as a full disk or a quota does."""
    write_text(tmp_path / "file", "old")
    code = """
import pathlib, resource, sys
from core.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(pathlib.Path(sys.argv[1]), "x" * 100_000)
except OSError as error:
    print(error.strerror)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("links", [True, False])
def test_of_texts_that_are_written_once_the_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Also on storage that knows no hard links."""

    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "folder" / "note"
    assert write_text_once(path, "first")
    assert not write_text_once(path, "second")
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["note"]


def test_temporary_names_are_siblings_and_differ(tmp_path: Path) -> None:
    names = {temporary_name(tmp_path / "a.tar") for _ in range(100)}
    assert len(names) == 100
    assert all(name.parent == tmp_path and name.name.startswith(TEMPORARY_PREFIX) for name in names)


def test_equal_values_give_equal_json_and_fingerprints(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": [1.5, "é"]})
    write_json(tmp_path / "b", {"y": [1.5, "é"], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert fingerprint({"x": 1, "y": 2}) == fingerprint({"y": 2, "x": 1})
    assert fingerprint({"x": 1}) != fingerprint({"x": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "c", float("nan"))
    assert not (tmp_path / "c").exists()


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_listing_leaves_out_temporary_files_whatever_their_names_end_with(tmp_path: Path) -> None:
    write_text(tmp_path / "b.json", "")
    write_text(tmp_path / "a.json", "")
    write_text(tmp_path / "c.txt", "")
    write_text(tmp_path / "below" / "d.json", "")
    left = temporary_name(tmp_path / "a.json")
    left.touch()
    temporary_name(tmp_path / "below" / "d.json").touch()
    assert [path.name for path in published(tmp_path, "*.json")] == ["a.json", "b.json"]
    assert [path.name for path in published(tmp_path)] == ["a.json", "b.json", "below", "c.txt"]
    assert published_below(tmp_path) == [tmp_path / n for n in ("a.json", "b.json", "below/d.json", "c.txt")]
    assert temporaries(tmp_path) == temporaries(tmp_path, "a.json") == [left]
    assert temporaries(tmp_path, "b.json") == []
    assert published(tmp_path / "nothing") == published(tmp_path / "c.txt") == []


def test_reading_takes_memory_of_the_file_and_not_of_its_limit(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "small", 1 << 28) == b"x" * 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert read_bytes(tmp_path / "small", 1000) == b"x" * 1000
    with pytest.raises(OSError, match="larger than 999 bytes"):
        read_bytes(tmp_path / "small", 999)
    assert read_bytes(Path("/proc/self/status"), 1 << 20).startswith(b"Name:")  # says that it has no bytes
