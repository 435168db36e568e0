"""The job `inspect` on an export. Run: pytest tests/tools/inspect/test_exported.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.checkpoint import exported
from core.files import write_json, write_text
from launch import cli

RECORD = {
    "checkpoint": "step-00000006.local.1",
    "step": 6,
    "updates": 5,
    "weights": "ema",
    "average": "0.999",
    "dtype": "bf16",
    "trained": ["a.weight", "b"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    write_text(folder / "config.yaml", "seed: 3\nmodel: {preset: '', width: 32, patch: [1, 2, 2]}\n")
    write_json(folder / "autoencoder" / "config.json", {})
    state = {
        "a.weight": torch.full((2, 3), 2.0, dtype=torch.bfloat16),
        "b": torch.tensor([3.0, 4.0]),
        "fixed": torch.tensor(7),
    }
    exported.finish(folder, state, RECORD)
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(["inspect", *words])
    return status, *capsys.readouterr()


def test_what_it_is_with_shapes_and_norms(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, error = told(capsys, str(folder))
    assert (status, error) == (0, "")
    assert text.splitlines()[1:6] == [
        "export of the average with decay 0.999, in bf16",
        "step 6, 5 updates, of checkpoint step-00000006.local.1",
        "3 files, 0.0 MiB",
        "9 numbers, 8 of them trained",
        "network: width=32 patch=[1, 2, 2]",
    ]
    assert [line.split() for line in text.splitlines()[8:12]] == [
        ["tensor", "shape", "type", "norm"],
        ["a.weight", "2x3", "bfloat16", "4.89898"],
        ["b", "2", "float32", "5"],
        ["fixed", "1", "int64", "7"],
    ]
    assert told(capsys, str(folder / "model.safetensors"))[1] == text
    status, text, _ = told(capsys, str(folder), "format=json", "action=verify")
    found = json.loads(text)
    assert found | RECORD == found
    assert found["config"]["seed"] == 3
    assert [tensor["norm"] for tensor in found["tensors"]] == pytest.approx([24**0.5, 5, 7])


@pytest.mark.parametrize("action", ["show", "verify"])
def test_every_damaged_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    (folder / "autoencoder" / "config.json").unlink()
    status, text, error = told(capsys, str(folder), f"action={action}")
    assert (status, len(error.splitlines())) == (1, 1)
    assert "2 of 3 files are not as they were written: autoencoder/config.json, model.safetensors" in error
    assert "model.safetensors differs from its SHA-256 in export.json" in text


def test_a_record_that_cannot_be_trusted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((folder / "export.json").read_text())
    for content, words in (
        (json.dumps(record | {"step": 7}), "export.json differs from its own SHA-256"),
        ("{", "export.json cannot be read"),
        (json.dumps({"sha256": "x"}), "export.json has format 1; this version reads 2: export the run again"),
    ):
        (folder / "export.json").write_text(content)
        status, _, error = told(capsys, str(folder))
        assert (status, words in error) == (1, True), error
    (folder / "export.json").unlink()
    status, _, error = told(capsys, str(folder / "model.safetensors"))
    assert (status, "export.json is missing" in error) == (1, True)


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["action=reindex"], ["sheet=x.png"], ["action=reindex", "--dry-run"]):
        status, _, error = told(capsys, str(folder), *words)
        assert (status, "expected a dataset as source, and this is an export" in error) == (2, True)
    status, _, error = told(capsys, str(tmp_path / "none" / "model.safetensors"))
    assert (status, error.endswith("; nothing is there\n")) == (2, True)
