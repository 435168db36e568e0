"""Weights in several files with an index, written tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.sharded_file import index_of, is_shard, load_sharded, write_sharded
from core.checkpoint.tensor_file import Entry, entries_of
from core.files import sha256_file
from tests.forking import start_forked

MIB = 1 << 20


def tensors() -> dict[str, Tensor]:
    return {
        "a": torch.arange(200.0),
        "large": torch.arange(900.0),
        "b": torch.arange(10, dtype=torch.int64),
        "c": torch.ones(100, dtype=torch.bfloat16),
        "d": torch.zeros((), dtype=torch.bool),
    }


def test_a_small_set_is_one_file(tmp_path: Path) -> None:
    files = write_sharded(tmp_path, "model", entries_of(tensors()))
    assert list(files) == ["model.safetensors"]
    assert not (tmp_path / index_of("model")).exists()
    found = load_sharded(tmp_path, "model")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


def test_a_large_set_is_cut_as_other_libraries_read_it(tmp_path: Path) -> None:
    files = write_sharded(tmp_path, "model", entries_of(tensors()), 1024)
    names = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    assert list(files) == [*names, "model.safetensors.index.json"]
    assert all(is_shard(name, "model") for name in names)
    assert not is_shard("model.safetensors", "model")
    for name, record in files.items():
        assert (record.size, record.sha256) == (
            (tmp_path / name).stat().st_size,
            sha256_file(tmp_path / name),
        )
    index = json.loads((tmp_path / index_of("model")).read_text())
    assert index["metadata"]["total_size"] == 800 + 3600 + 80 + 200 + 1
    assert index["weight_map"] == {"a": names[0], "large": names[1], **dict.fromkeys("bcd", names[2])}
    for key, name in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / name)[key], tensors()[key])
    assert {name: t.shape for name, t in load_sharded(tmp_path, "model").items()} == {
        name: t.shape for name, t in tensors().items()
    }


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_sharded(tmp_path, "model", entries_of(tensors()), 1024)
    path = tmp_path / index_of("model")
    path.write_text(path.read_text().replace("model-00001-of", "../model-00001-of"))
    with pytest.raises(Exception, match="weight_map"):
        load_sharded(tmp_path, "model")
    path.unlink()
    with pytest.raises(DamagedCheckpoint):
        load_sharded(tmp_path, "model")


def grown_by(folder: str) -> None:
    """Write 40 tensors of 8 MiB; the process may grow by a third of that."""
    before, entries = peak(), []
    for number in range(40):
        made = lambda number=number: torch.full((2 * MIB,), float(number))  # noqa: E731
        entries.append(Entry(f"{number:02d}", (2 * MIB,), torch.float32, made))
    write_sharded(Path(folder), "model", entries, 100 * MIB)
    assert peak() - before < 110 * MIB


def peak() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    process = start_forked(grown_by, str(tmp_path))
    process.join(60)
    assert process.exitcode == 0
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
