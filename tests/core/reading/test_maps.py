"""Maps that take no descriptor, and end with the last array on them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from core.reading.maps import map_file


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("writable", [False, True])
def test_a_map_outlives_its_file_and_takes_no_descriptor(tmp_path: Path, writable: bool) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(100)))
    before = len(os.listdir("/proc/self/fd"))
    with open(path, "rb") as file:
        found = map_file(file, writable=writable)
    assert len(os.listdir("/proc/self/fd")) == before
    assert found.tobytes() == bytes(range(100))
    part = np.frombuffer(found, "<u2", 10, 4)[2:]
    del found
    assert is_mapped(path)
    assert part.tobytes() == bytes(range(8, 24))
    del part
    assert not is_mapped(path)


def test_a_map_changes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(16))
    with open(path, "rb") as file:
        plain, private = map_file(file), map_file(file, writable=True)
    with pytest.raises(ValueError, match="read-only"):
        plain[0] = 1
    private[0] = 1
    assert path.read_bytes() == bytes(16)


def test_an_empty_file_is_an_empty_array(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file:
        assert map_file(file).shape == (0,)


def test_what_cannot_be_mapped_is_an_error_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(16))
    with open(path, "wb") as file:
        file.write(bytes(16))
        file.flush()
        with pytest.raises(PermissionError, match="cannot be mapped") as raised:
            map_file(file)
    assert raised.value.filename == str(path)
