"""The network of FVD is a TorchScript file, which may be any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.errors import UserError, WorkError
from models.extractors import i3d
from tests.models.public_models import save_i3d


def test_clips_give_what_the_file_gives(tmp_path: Path) -> None:
    path = save_i3d(tmp_path / "i3d.pt")
    network = i3d.load(path, "weights")
    clips = torch.randint(0, 256, (2, 3, 16, 8, 8), dtype=torch.uint8)
    expected = torch.jit.load(path)(clips, rescale=True, resize=True, return_features=True)
    assert torch.equal(network(clips), expected)
    assert len(network.sha256) == 64


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights=.*missing: expected the TorchScript file"):
        i3d.load(tmp_path / "missing", "weights")
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(UserError, match="expected the TorchScript file"):
        i3d.load(tmp_path / "text.pt", "weights")
    network = i3d.load(save_i3d(tmp_path / "i3d.pt"), "weights")
    with pytest.raises(WorkError, match=r"cannot take clips of shape \(1, 3, 4, 8, 8\)"):
        network(torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8))
