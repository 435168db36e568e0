"""Check that every kind of autoencoder fulfils the interface for encoding, training and sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config.loading import describe, from_dict
from core.errors import UserError
from models.autoencoder.interface import AutoencoderConfig
from models.autoencoder.kinds import KINDS
from models.autoencoder.opening import identify, identify_saved, open_autoencoder
from models.autoencoder.store import CONFIG, fingerprint, save
from models.autoencoder.tiling_config import TilingConfig
from tests.models.autoencoder.codes import CodesConfig

SMALL: dict[str, dict[str, Any]] = {
    "kl": {"width": 4, "channel_multipliers": [1, 1, 1], "blocks": 1, "spatial_compression": 4},
    "codes": {"latent_channels": 5},
}
PIXELS = (5, 8, 12)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "codes", CodesConfig)


@pytest.fixture(params=[*KINDS, "codes"])
def config(request: pytest.FixtureRequest) -> AutoencoderConfig:
    assert request.param in SMALL, f"give this test a small autoencoder of model.kind={request.param}"
    return from_dict(KINDS[request.param], SMALL[request.param])


def test_a_configuration_is_a_section_that_says_its_kind(config: AutoencoderConfig) -> None:
    assert next(line.path for line in describe(type(config))) == "kind"
    assert KINDS[config.kind] is type(config)


def test_it_encodes_to_moments_of_the_shape_it_says_and_back(config: AutoencoderConfig) -> None:
    torch.manual_seed(0)
    model, pixels = config.build().eval(), torch.rand(2, 3, *PIXELS) * 2 - 1
    latents = (config.latent_channels, *config.latent_shape(PIXELS))
    assert model.latent_shape(PIXELS) == latents[1:]
    assert PIXELS[1] // latents[2] == model.spatial_compression == config.spatial_compression
    noise = torch.zeros(2, *latents) if config.moments == 2 else None
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        moments = model.encode(pixels)
        assert (moments.shape, moments.dtype) == ((2, config.moments, *latents), torch.float32)
        back = model.decode(moments[:, 0])
        assert (back.shape, back.dtype) == (pixels.shape, torch.float32)
        reconstruction, found = model(pixels, noise)
        assert torch.equal(found, moments)
        assert torch.equal(reconstruction, back)


def test_pixels_that_it_would_cut_are_refused(config: AutoencoderConfig) -> None:
    for ask in (config.latent_shape, config.build().latent_shape):
        with pytest.raises(UserError, match=r"^height=9: expected "):
            ask((1, 9, 8))
    with pytest.raises(UserError, match=r"^height=9: expected "):
        config.build().encode(torch.zeros(1, 3, 1, 9, 8))


def test_its_folder_says_its_kind_and_gives_it_back(config: AutoencoderConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = config.build()
    identity = save(model, tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / CONFIG).read_text())
    assert (record["kind"], record["fingerprint"]) == (config.kind, identity)
    found = open_autoencoder(tmp_path / "saved")
    assert identify(found) == identify(model) == identify_saved(tmp_path / "saved")
    assert identify(found)["encoder"] == identity == fingerprint(tmp_path / "saved")
    found.set_tiling(TilingConfig())
    pixels = torch.rand(1, 3, *PIXELS)
    assert torch.equal(found.encode(pixels), model.eval().encode(pixels))


def test_a_folder_without_a_kind_is_of_the_first_and_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    save(from_dict(KINDS["kl"], SMALL["kl"]).build(), tmp_path)
    record = json.loads((tmp_path / CONFIG).read_text())
    assert "kind" not in record["config"], "what it is known by is what it always was"
    del record["kind"]
    (tmp_path / CONFIG).write_text(json.dumps(record))
    assert identify(open_autoencoder(tmp_path))["encoder"] == record["fingerprint"]
    (tmp_path / CONFIG).write_text(json.dumps(record | {"kind": "magvit"}))
    with pytest.raises(UserError, match=r"^autoencoder=.*: expected an autoencoder of kind kl or codes, not"):
        open_autoencoder(tmp_path)


def test_two_kinds_of_equal_configurations_and_weights_are_two_autoencoders() -> None:
    assert "kind" in CodesConfig().build().settings


def test_every_kind_that_there_is_has_a_small_one_here() -> None:
    assert set(SMALL) == set(KINDS)
