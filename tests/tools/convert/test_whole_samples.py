"""Samples of converted weights are those that the published code draws from equal noise.

`sampled_reference.npz` holds latents (2, 4, 8, 8) that facebookresearch/DiT at ed81ce2 (`p_sample_loop` and
`ddim_sample_loop` by the respacings "10" and "ddim10") and willisma/SiT at 947f95b (`sample_ode`, with
torchdiffeq 0.2.5) draw with their own networks and `forward_with_cfg`, scale 1.5, of classes 1 and 3, with
the weights of `test_dit_layout.weights`, from the noise below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.levels import AdaptiveConfig
from core.draws import Draws
from models.autoencoder import kl, store
from tests.tools.convert.test_dit_layout import LARGE, weights
from tools.convert import job
from tools.convert.config import Config
from tools.runs.loaded_run import open_run

STEPS, COUNT = 10, 2
FINE = AdaptiveConfig(tolerance=1e-7)
CASES: dict[str, dict[str, Any]] = {
    "dit_ddpm": {"solver": "ddpm", "grid": "meta"},
    "dit_ddim": {"solver": "ddim", "grid": "meta_ddim"},
    "sit_euler": {"solver": "euler"},
    "sit_dopri5": {"solver": "dopri5", "adaptive": FINE},
}


class GivenDraws(Draws):
    """The noise that the published code was given."""

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        noise = np.random.default_rng(1).standard_normal((1 + STEPS, COUNT, *shape[:1], *shape[2:]))
        step = 0 if purpose == "sample_start" else 1 + int(purpose.rpartition("_")[2])
        return torch.from_numpy(noise[step].astype(np.float32))[:, :, None]


@pytest.mark.parametrize("case", CASES)
def test_converted_weights_draw_what_the_published_code_draws(case: str, tmp_path: Path) -> None:
    here, layout = Path(__file__).parent, case.partition("_")[0]
    with np.load(here / "dit_reference.npz") as file:
        torch.save(weights(LARGE, file["eight_positions"]), tmp_path / "weights.pt")
    shape = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    store.save(kl.Autoencoder(shape), tmp_path / "autoencoder")
    places = {name: str(tmp_path / name) for name in ("autoencoder", "output")}
    job.run(Config(source=str(tmp_path / "weights.pt"), layout=layout, heads=2, latent_std=5.5, **places))  # type: ignore[arg-type]
    opened, number = open_run(tmp_path / "output", "", "ema", torch.device("cpu")), torch.arange(COUNT)
    found = sample(
        opened.model,
        (COUNT, *opened.space.shapes[0]),
        Condition(label=torch.tensor([1, 3])),
        SamplerConfig(steps=STEPS, guidance=1.5, guidance_channels=3, **CASES[case]),
        make_path(opened.space.path),
        opened.space.prediction,
        GivenDraws(0, 0, number, torch.zeros_like(number)),
        learned_sigma=opened.space.learned_sigma,
    )
    with np.load(here / "sampled_reference.npz") as file:
        expected = file[case]
    assert np.abs(found[:, :, 0].numpy() - expected).max() < 1e-4 * max(1, np.abs(expected).max())
