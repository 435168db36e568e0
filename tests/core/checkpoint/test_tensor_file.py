"""Run: pytest tests/core/checkpoint/test_tensor_file.py"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.checkpoint import tensor_file
from core.checkpoint.tensor_file import write_tensors
from core.faults import failpoints
from core.files import sha256_file


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_safetensors_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "CHUNK_BYTES", 100)  # several chunks a tensor, none aligned
    tensors = {
        "flag": torch.tensor([True, False, True]),
        "count": torch.tensor(7),
        "half": torch.randn(5, 3).bfloat16(),
        "wide": torch.randn(33, 7),
        "part": torch.arange(100.0)[10:90:2],
        "none": torch.empty(0, 4),
    }
    record = write_tensors(tmp_path / "x.safetensors", tensors)
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(read[n].dtype == t.dtype and torch.equal(read[n], t) for n, t in tensors.items())
    assert record.size == (tmp_path / "x.safetensors").stat().st_size
    assert record.sha256 == sha256_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize("place", ["save.tensor", "save.flush"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, place: str) -> None:
    failpoints.arm(f"{place}:enospc")
    with pytest.raises(OSError, match="No space"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(4)})
    assert os.listdir(tmp_path) == []
