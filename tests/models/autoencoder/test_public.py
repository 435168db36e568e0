"""Public autoencoders: every class keeps shapes, normalises as its authors do, and loses no frame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.errors import UserError, WorkError
from models.autoencoder import opening
from models.autoencoder.public import PublicAutoencoder, channels_last
from models.autoencoder.tiling_config import TilingConfig
from tests.models.public_models import AUTOENCODERS, save_autoencoder

# kind: pixels (T, H, W), latents (M, C, T, H, W), frames that do not come back, and which do
CASES = {
    "AutoencoderKL": ((2, 16, 24), (2, 4, 2, 4, 6), None, ""),
    "AutoencoderDC": ((2, 16, 24), (1, 4, 2, 4, 6), None, ""),
    "AutoencoderKLWan": ((5, 16, 24), (2, 4, 2, 2, 3), 8, "5 or 9, since AutoencoderKLWan gives 5 back"),
    "AutoencoderKLCogVideoX": ((9, 16, 24), (2, 4, 3, 2, 3), 5, "1 or 8, since"),
    "AutoencoderKLCosmos": ((9, 16, 24), (1, 4, 2, 2, 3), 8, "1 or 9, since"),
    "AutoencoderKLLTXVideo": (
        (9, 32, 64),
        (2, 4, 2, 1, 2),
        8,
        "1 or 9, since AutoencoderKLLTXVideo gives 1 back",
    ),
}
every_class = pytest.mark.parametrize("kind", list(CASES))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("public")
    return {kind: save_autoencoder(folder / kind, kind) for kind in CASES}


def opened(folder: Path) -> PublicAutoencoder:
    found = opening.open_autoencoder(folder)
    assert isinstance(found, PublicAutoencoder)
    return found


@every_class
def test_shapes_and_moments_are_those_of_the_class(kind: str, saved: dict[str, Path]) -> None:
    import diffusers

    network, (size, latents, bad, good) = opened(saved[kind]), CASES[kind]
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments = network.encode(pixels)
    assert moments.shape == (1, *latents)
    assert (network.moments, network.latent_channels) == latents[:2]
    assert network.latent_shape(size) == latents[2:]
    assert network.spatial_compression == size[1] // latents[3]
    assert network.decode(moments[:, 0]).shape == pixels.shape
    its_own = getattr(diffusers, kind).from_pretrained(str(saved[kind])).eval()
    given = pixels[:, :, 0] if bad is None else pixels
    with torch.no_grad():
        output = its_own.encode(given)
    expected = output.latent if kind == "AutoencoderDC" else output.latent_dist.mode()
    assert torch.allclose(moments[:, 0, :, 0] if bad is None else moments[:, 0], expected, atol=1e-5)
    if bad is not None:
        with pytest.raises(UserError, match=f"frames={bad}: expected {good}"):
            network.encode(torch.zeros(1, 3, bad, *size[1:]))


@every_class
def test_latents_are_normalised_as_in_the_pipelines_of_the_authors(kind: str, saved: dict[str, Path]) -> None:
    network, settings = opened(saved[kind]), AUTOENCODERS[kind]
    mean, std = (torch.tensor(network.normalisation[name]) for name in ("mean", "std"))
    z = torch.arange(4.0)
    if kind == "AutoencoderKL":
        expected = (z - 0.1) * 0.5
    elif kind == "AutoencoderKLWan":
        expected = (z - torch.tensor([0.1, 0.2, 0.3, 0.4])) / torch.tensor([1.0, 2.0, 3.0, 4.0])
    elif kind == "AutoencoderKLCosmos":
        z = z[:, None].expand(4, 5)
        means, stds = (torch.tensor(settings[f"latents_{name}"]).view(4, 5) for name in ("mean", "std"))
        expected = (z - means) / stds
    elif kind == "AutoencoderKLLTXVideo":
        expected = (z - torch.linspace(-1, 1, 4)) * 0.5 / torch.linspace(1, 2, 4)
    else:
        expected = z * settings["scaling_factor"]
    assert torch.allclose((z - mean) / std, expected)


def test_rows_and_columns_are_not_lost_either(saved: dict[str, Path]) -> None:
    with pytest.raises(
        UserError, match="height=60: expected a multiple of 8, since AutoencoderKLWan gives 56 back"
    ):
        opened(saved["AutoencoderKLWan"]).latent_shape((1, 60, 64))
    with pytest.raises(UserError, match="cannot take 1x60x62 pixels"):
        opened(saved["AutoencoderDC"]).latent_shape((1, 60, 62))


@pytest.mark.parametrize(
    "kind",
    [
        "AutoencoderKL",
        "AutoencoderDC",
        pytest.param("AutoencoderKLCogVideoX", marks=pytest.mark.full),
        pytest.param("AutoencoderKLWan", marks=pytest.mark.full),
        pytest.param("AutoencoderKLLTXVideo", marks=pytest.mark.full),
    ],
)
def test_tiles_are_those_of_diffusers(kind: str, saved: dict[str, Path]) -> None:
    network = opened(saved[kind])
    tile = 4 * network.spatial_compression
    pixels = torch.rand(1, 3, 1, 2 * tile, tile, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = network.encode(pixels)
    network.set_tiling(TilingConfig(pixels=tile))
    tiled = network.encode(pixels)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert network.decode(tiled[:, 0]).shape == pixels.shape
    small = pixels[..., :tile, :]
    assert torch.equal(network.encode(small), opened(saved[kind]).encode(small))


def test_tiling_that_would_do_nothing_is_refused(saved: dict[str, Path]) -> None:
    for kind, tiling, field in (
        ("AutoencoderKLCosmos", TilingConfig(pixels=64), "pixels=64"),
        ("AutoencoderKLWan", TilingConfig(frames=4), "frames=4"),
        ("AutoencoderKLWan", TilingConfig(pixels=40), "pixels=40"),
    ):
        with pytest.raises(UserError, match=f"^{field}: expected"):
            opened(saved[kind]).set_tiling(tiling)


def test_identity_is_of_weights_and_settings(saved: dict[str, Path], tmp_path: Path) -> None:
    first = opening.identify(opened(saved["AutoencoderKL"]))
    same = opening.identify(opened(save_autoencoder(tmp_path / "same", "AutoencoderKL")))
    other = opening.identify(opened(save_autoencoder(tmp_path / "other", "AutoencoderKL", seed=1)))
    scaled = opening.identify(
        opened(save_autoencoder(tmp_path / "scaled", "AutoencoderKL", scaling_factor=0.25))
    )
    assert first == same == json.loads(json.dumps(first))
    assert len({record["encoder"] for record in (first, other, scaled)}) == 3
    assert first["encoder_config"]["class"] == "AutoencoderKL"


def test_what_cannot_be_read_whole_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_autoencoder(tmp_path / "kl", "AutoencoderKL")
    weights = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state.pop("encoder.conv_in.weight")
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(WorkError, match=r"lack 1 of AutoencoderKL's, encoder.conv_in.weight first"):
        opening.open_autoencoder(folder)
    weights.write_bytes(b"no weights")
    with pytest.raises(WorkError, match="no readable AutoencoderKL"):
        opening.open_autoencoder(folder)
    weights.rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(WorkError, match="no readable AutoencoderKL"):
        opening.open_autoencoder(folder)
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(UserError, match="autoencoder=UNet2DModel: expected one of AutoencoderKL, "):
        opening.open_autoencoder(folder)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderKLWan"])
def test_channels_last_compute_the_same(kind: str, saved: dict[str, Path]) -> None:
    network, x = opened(saved[kind]), torch.rand(1, 3, 5, 64, 64) * 2 - 1
    with torch.no_grad():
        before = network.encode(x)
        channels_last(network.network)
        after = network.encode(x)
    assert any(
        p.dim() > 3 and min(p.shape[:2]) > 1 and not p.is_contiguous() for p in network.network.parameters()
    )
    assert float((after - before).norm() / before.norm()) < 1e-5
