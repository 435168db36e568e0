"""The Inception network of FID: its layout, its pictures, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from core.checkpoint.torch_file import read_tensors
from core.errors import UserError
from models.extractors.inception import load, tensorflow_resize
from tests.models.extractors.made_weights import random_weights


def test_layout_and_widths_are_the_published_ones() -> None:
    state = random_weights()
    numbers = sum(tensor.numel() for name, tensor in state.items() if "running" not in name)
    assert (
        numbers == 23_834_568 + 8 * 2049
    )  # torchvision's without its auxiliary classifier, and 8 more classes
    network = load({**state, "AuxLogits.conv0.conv.weight": torch.zeros(1)}, "weights", "made")
    pictures = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    with torch.no_grad():
        found = network(pictures)
    assert [tuple(part.shape) for part in found] == [(2, 2048), (2, 2023), (2, 1008)]
    assert torch.equal(found.logits, found.pool @ state["fc.weight"].T)
    assert (found.spatial >= 0).all()


def test_pictures_are_resized_as_tensorflow_1_does() -> None:
    """Source places are multiples of size / side, without half a pixel, and the last row repeats."""
    row = torch.tensor([0.0, 10.0, 40.0])
    pictures = (row[:, None] + row).expand(1, 1, 3, 3)
    found = tensorflow_resize(pictures, 6)[0, 0]
    line = torch.tensor([0.0, 5.0, 10.0, 25.0, 40.0, 40.0])
    assert torch.allclose(found, line[:, None] + line)
    assert torch.equal(tensorflow_resize(pictures, 3), pictures)


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    state = random_weights()
    del state["Mixed_6d.branch1x1.conv.weight"]
    with pytest.raises(
        UserError, match=r"weights=made: .*1 do not fit, Mixed_6d\.branch1x1\.conv\.weight first"
    ):
        load(state, "weights", "made")


def test_files_of_tensors_are_read_and_nothing_else(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pth")
    torch.save({"state_dict": {"b": torch.ones(3)}, "epoch": 3}, tmp_path / "nested.pth")
    assert list(read_tensors(tmp_path / "plain.pth", "weights")) == ["a"]
    assert list(read_tensors(tmp_path / "nested.pth", "weights")) == ["b"]
    torch.save({"a": io.StringIO}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").touch()
    for name in ("code", "list", "text", "empty", "absent"):
        with pytest.raises(UserError, match=rf"^weights=.*{name}\.pth: expected a file of "):
            read_tensors(tmp_path / f"{name}.pth", "weights")


def test_features_are_those_of_torch_fidelity() -> None:
    """The numbers are torch-fidelity 0.4.0's for the same weights and picture."""
    picture = torch.arange(3 * 20 * 20).reshape(1, 3, 20, 20) % 256
    with torch.no_grad():
        found = load(random_weights(), "weights", "made")(picture)
    assert float(found.pool.double().mean()) == pytest.approx(1.99357693, rel=1e-5)
    assert found.pool[0, [0, 700, 2047]].tolist() == pytest.approx([0, 0.61978298, 1.94438744], rel=1e-4)
    assert found.logits[0, [0, 1007]].tolist() == pytest.approx([7.60700846, 9.19636536], rel=1e-4)
