"""Statistics, normalising and posterior samples."""

from __future__ import annotations

import numpy as np
import torch

from core.draws import Draws
from data.latent.normalising import LatentSums, Normaliser, sample_posterior
from tests.data.caches import CLIP, IMAGE, latents_of


def test_statistics_are_those_of_drawn_latents():
    shapes = [IMAGE, CLIP] * 12
    stored = [latents_of(row, shape) for row, shape in enumerate(shapes)]
    first, *rest = [LatentSums.of(latents[None]) for latents in stored]
    measured = sum(rest, first).statistics()
    generator = np.random.default_rng(0)
    drawn = [
        latents[0].astype(np.float64)
        + np.exp(0.5 * latents[1].astype(np.float64)) * generator.standard_normal((300, *latents[0].shape))
        for latents in stored
    ]
    channels = [np.concatenate([x[:, c].ravel() for x in drawn]) for c in range(3)]
    assert measured["count"] == sum(x[0, 0].size for x in drawn)
    assert np.allclose(measured["mean"], [c.mean() for c in channels], atol=0.02)
    assert np.allclose(measured["std"], [c.std() for c in channels], rtol=0.02)


def test_statistics_of_stored_means_are_exact():
    latents = np.random.default_rng(1).standard_normal((5, 1, 2, 3, 4, 4)).astype(np.float16)
    measured = LatentSums.of(latents).statistics()
    exact = latents[:, 0].astype(np.float64)
    assert np.allclose(measured["mean"], exact.mean((0, 2, 3, 4)), rtol=1e-12)
    assert np.allclose(measured["std"], exact.std((0, 2, 3, 4)), rtol=1e-9)


def test_normalising_brings_to_unit_scale_and_back():
    latents = torch.randn(6, 2, 3, 4, 4) * torch.tensor([3.0, 0.1])[:, None, None, None] + 5
    measured = LatentSums.of(latents[:, None].numpy()).statistics()
    normaliser = Normaliser.from_dict(measured)
    normal = normaliser.apply(latents)
    assert torch.allclose(normal.mean((0, 2, 3, 4)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(normal.std((0, 2, 3, 4), correction=0), torch.ones(2), atol=1e-4)
    assert torch.allclose(normaliser.undo(normal), latents, atol=1e-4)
    assert normaliser.as_dict() == {"mean": measured["mean"], "std": measured["std"]}


def test_a_channel_that_never_changes_stays_finite():
    normal = Normaliser((1.0,), (0.0,)).apply(torch.ones(1, 1, 1, 2, 2))
    assert torch.equal(normal, torch.zeros(1, 1, 1, 2, 2))


def test_posterior_samples_are_keyed_and_have_the_moments():
    ids = torch.arange(4000)
    moments = torch.stack(
        [torch.full((4000, 1, 1, 2, 2), 3.0), torch.full((4000, 1, 1, 2, 2), -1.5)], 1
    ).half()
    latents = sample_posterior(moments, Draws(7, 3, ids, ids))
    assert latents.dtype == torch.float32
    assert abs(latents.mean().item() - 3) < 0.02
    assert abs(latents.std().item() - np.exp(-0.75)) < 0.02
    alone = sample_posterior(moments[5:6], Draws(7, 3, ids[5:6], ids[5:6]))
    assert torch.equal(alone[0], latents[5])
    assert not torch.equal(sample_posterior(moments, Draws(7, 4, ids, ids)), latents)


def test_a_stored_mean_is_the_latent():
    mean = torch.randn(2, 1, 3, 1, 4, 4).half()
    ids = torch.arange(2)
    assert torch.equal(sample_posterior(mean, Draws(0, 0, ids, ids)), mean[:, 0].float())
