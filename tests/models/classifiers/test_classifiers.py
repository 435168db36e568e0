"""Classifiers of noisy latents: every kind is told the time, is saved and read back, and refuses damage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.errors import UserError, WorkError
from core.files import write_text
from models.classifiers import classifier_folder
from models.classifiers.fitting import FittingConfig, fit
from models.classifiers.kinds import KINDS
from models.classifiers.pooled import PooledConfig

CONFIG = PooledConfig(channels=2, classes=3, width=8, depth=1)
NAMES = ("cat", "dog", "eel")


def saved(folder: Path) -> classifier_folder.SavedClassifier:
    torch.manual_seed(0)
    return classifier_folder.save(folder, CONFIG.build(), CONFIG, NAMES, {"path": "rectified_flow"})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_classes_of_latents_of_any_size_and_depends_on_the_time(kind: str) -> None:
    torch.manual_seed(0)
    network = KINDS[kind](channels=2, classes=3).build().double()
    for size in ((1, 4, 4), (3, 2, 6)):
        x = torch.randn(5, 2, *size, dtype=torch.float64)
        found = network(x, torch.full((5,), 300.0))
        torch.testing.assert_close(found.exp().sum(1), torch.ones(5, dtype=torch.float64))
        assert not torch.allclose(found, network(x, torch.full((5,), 900.0)))
        torch.testing.assert_close(network(x[:1], torch.tensor([300.0])), found[:1])


def test_a_saved_classifier_is_read_back_to_the_bit(tmp_path: Path) -> None:
    record = saved(tmp_path / "c")
    network, found = classifier_folder.load(tmp_path / "c")
    torch.manual_seed(0)
    whole = CONFIG.build()
    assert found == record == classifier_folder.read(tmp_path / "c")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in whole.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_what_is_no_classifier_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^classifier=.*: expected the folder of a classifier of noisy"):
        classifier_folder.read(tmp_path)
    folder, other = tmp_path / "c", tmp_path / "other"
    saved(folder)
    classifier_folder.save(other, PooledConfig(channels=2, classes=3, width=8).build(), CONFIG, NAMES, {})
    with pytest.raises(WorkError, match=r"weights\.safetensors does not fit classifier\.json"):
        classifier_folder.load(other)
    (folder / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes())
    with pytest.raises(WorkError, match="differs from its fingerprint"):
        classifier_folder.load(folder)
    text = (folder / "classifier.json").read_text()
    write_text(folder / "classifier.json", text.replace("eel", "elk"))
    with pytest.raises(WorkError, match="differs from its own SHA-256"):
        classifier_folder.read(folder)
    write_text(tmp_path / "notes", "mine")
    with pytest.raises(UserError, match="an empty folder, or one that holds a classifier"):
        saved(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = CONFIG.build()
    torch.nn.init.constant_(network.last.bias, float("nan"))
    classifier_folder.save(tmp_path / "c", network, CONFIG, NAMES, {})
    with pytest.raises(WorkError, match="weights that are not finite"):
        classifier_folder.load(tmp_path / "c")


@pytest.mark.parametrize("name", ["rectified_flow", "edm"])
def test_a_fitted_classifier_tells_classes_apart_the_better_the_less_noise(name: PathName) -> None:
    torch.manual_seed(0)
    labels = torch.arange(120) % 3
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    latents = means[labels][:, :, None, None, None] + 0.1 * torch.randn(120, 2, 1, 2, 2)
    fitting = FittingConfig(steps=120, batch=60, learning_rate=1e-2)
    path = make_path(name)
    network = fit(CONFIG, [(latents, labels)], path, fitting)
    again = fit(CONFIG, [(latents, labels)], path, fitting)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    right = []
    for time in (torch.tensor(0.2), torch.tensor(1.0)):
        alpha, sigma = path.alpha(time), path.sigma(time)
        noisy = alpha * latents + sigma * torch.randn_like(latents)
        seen = noisy / (alpha**2 + sigma**2).sqrt() if path.scales_input else noisy
        told = network(seen, path.time_input(time).expand(120))
        right.append(float((told.argmax(1) == labels).float().mean()))
    assert right[0] > 0.95
    assert right[1] < 0.7
