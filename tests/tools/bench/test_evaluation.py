"""Statistics beside torch-fidelity's formulas. Run: pytest tests/tools/bench/test_evaluation.py"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.bench import evaluation
from tools.bench.job import Config

FORMULAS = """
import numpy as np
import torch
from torch_fidelity.helpers import get_kwarg, vprint
from torch_fidelity.utils import cache

KEY_METRIC_FID = "fid"

def fid_features_to_statistics(features):
    return {"mu": features.numpy().mean(0), "sigma": np.cov(features.numpy(), rowvar=False)}

def fid_statistics_to_metric(one, other, verbose):
    vprint(verbose, "said")
    apart, product = one["mu"] - other["mu"], one["sigma"] @ other["sigma"]
    root = np.sqrt(np.linalg.eigvals(product).astype(complex)).real.sum()
    return {"fid": apart @ apart + np.trace(one["sigma"]) + np.trace(other["sigma"]) - 2 * root}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package in the way that, as torch-fidelity, cannot be imported as a whole."""
    (tmp_path / "torch_fidelity").mkdir()
    (tmp_path / "torch_fidelity/__init__.py").write_text("import torchvision_that_does_not_work")
    (tmp_path / "torch_fidelity/metric_fid.py").write_text(FORMULAS)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("package")
def test_the_formulas_alone_are_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "WIDTH", 32)
    config = Config(source="evaluation", rounds=1, features=4096)
    statistics, distance = evaluation.rows(config, tmp_path)
    for row in (statistics, distance):
        assert list(row.timings) == ["longtake", "torch-fidelity"]
        assert row.absent == ()
    assert [floor.what for floor in statistics.floors] == ["times torch-fidelity", "GiB beside the features"]
    assert 0 < statistics.facts["GiB beside the features, longtake"] < 0.1
    assert "torch_fidelity" not in sys.modules


def test_a_peer_that_is_not_there_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "WIDTH", 32)
    monkeypatch.setattr(evaluation, "torch_fidelity", lambda: None)
    config = Config(source="evaluation", rounds=1, features=4096)
    assert {row.absent for row in evaluation.rows(config, tmp_path)} == {("torch-fidelity",)}
