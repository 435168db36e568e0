"""The pictures of solvers in the docs are those that the program makes, and small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.root import ROOT
from tools.bench import trajectories

KEPT = ROOT / "docs" / "images" / "solvers"


def test_every_solver_has_a_picture_in_the_docs_and_all_are_small() -> None:
    text, kept = (ROOT / "docs" / "method.md").read_text(), list(KEPT.iterdir())
    assert {path.stem for path in kept} == set(trajectories.PICTURED)
    assert [name for name in trajectories.PICTURED if f"images/solvers/{name}.svg" not in text] == []
    assert sum(path.stat().st_size for path in kept) <= 300_000


@pytest.mark.full
def test_the_pictures_are_those_that_the_program_makes(tmp_path: Path) -> None:
    """To a tenth of a pixel: the last digit of a float may differ from machine to machine."""
    for path in trajectories.make(tmp_path):
        made, kept = (_numbers(folder / path.name) for folder in (tmp_path, KEPT))
        torch.testing.assert_close(made, kept, rtol=0, atol=0.11)


def _numbers(path: Path) -> torch.Tensor:
    text = path.read_text().replace("<", " ").replace(">", " ").replace('"', " ").replace(",", " ")
    return torch.tensor([float(word) for word in text.split() if word.replace(".", "").isdigit()])
