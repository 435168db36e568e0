"""The causal autoencoder: an image autoencoder at T=1, and no look ahead anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from models.autoencoder.kl import Autoencoder, KLConfig
from models.autoencoder.layers import CausalConv3d, PixelNorm, ResidualBlock, Upsample, patches, unpatches

SMALL = KLConfig(width=8, channel_multipliers=(1, 2, 2), spatial_compression=4, latent_channels=4, blocks=1)
SHAPES = [
    SMALL,
    replace(SMALL, spatial_compression=8, temporal_compression=2),
    replace(SMALL, temporal_compression=1, channel_multipliers=(1, 2)),
    replace(SMALL, patch=1, spatial_compression=2, temporal_compression=4),
]


def _awake(config: KLConfig) -> Autoencoder:
    """Return a network in double precision whose every weight is random, none zero."""
    torch.manual_seed(0)
    model = Autoencoder(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def _image_network(model: torch.nn.Module, x: Tensor) -> Tensor:
    """Return encoder and decoder for images (B, C, H, W): 2-D layers with the last slice's weights."""

    def conv(layer: CausalConv3d, x: Tensor) -> Tensor:
        return F.conv2d(x, layer.weight[:, :, -1], layer.bias, layer.stride, layer.weight.shape[-1] // 2)

    def norm(layer: PixelNorm, x: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * layer.scale[:, None, None]

    def layer(module: torch.nn.Module, x: Tensor) -> Tensor:
        if isinstance(module, ResidualBlock):
            hidden = conv(module.conv_1, F.silu(norm(module.norm_1, x)))
            return x + conv(module.conv_2, F.silu(norm(module.norm_2, hidden)))
        if isinstance(module, Upsample):
            latest = conv(module.conv, x).unflatten(1, (-1, module.time, module.space**2))[:, :, -1]
            return F.pixel_shuffle(latest.flatten(1, 2), module.space)
        assert isinstance(module, CausalConv3d)
        return conv(module, x)

    x = conv(model.stem, x)
    for module in model.layers:
        x = layer(module, x)
    return conv(model.head, F.silu(norm(model.norm, x)))


@pytest.mark.parametrize("config", SHAPES)
def test_one_frame_is_an_image_autoencoder(config: KLConfig) -> None:
    model = _awake(config)
    pixels = torch.randn(2, 3, 1, 16, 24, dtype=torch.float64)
    moments = model.encode(pixels)
    mean, log_variance = _image_network(
        model.encoder, F.pixel_unshuffle(pixels[:, :, 0], config.patch)
    ).chunk(2, 1)
    torch.testing.assert_close(moments[:, 0, :, 0], mean.float())
    torch.testing.assert_close(moments[:, 1, :, 0], log_variance.clamp(-30, 20).float())
    latents = torch.randn(2, 4, 1, 4, 6, dtype=torch.float64)
    image = F.pixel_shuffle(_image_network(model.decoder, latents[:, :, 0]), config.patch)
    torch.testing.assert_close(model.decode(latents)[:, :, 0], image.float())


@pytest.mark.parametrize("config", SHAPES)
def test_first_frame_of_a_clip_is_coded_as_an_image(config: KLConfig) -> None:
    model = _awake(config)
    clip = torch.randn(1, 3, 9, 16, 16, dtype=torch.float64)
    moments = model.encode(clip)
    torch.testing.assert_close(moments[:, :, :, :1], model.encode(clip[:, :, :1]))
    latents = moments[:, 0].double()
    torch.testing.assert_close(model.decode(latents)[:, :, :1], model.decode(latents[:, :, :1]))


@pytest.mark.parametrize("config", SHAPES)
def test_no_latent_sees_a_later_frame_and_no_frame_a_later_latent(config: KLConfig) -> None:
    """Gradients tell exactly which inputs each output depends on."""
    model, frames, time = _awake(config), 9, config.temporal_compression
    pixels = torch.randn(1, 3, frames, 16, 16, dtype=torch.float64, requires_grad=True)
    moments = model.encode(pixels)
    latents = torch.randn_like(moments[:, 0], dtype=torch.float64).requires_grad_()
    clip = model.decode(latents)
    assert clip.shape == pixels.shape
    for j in range(moments.shape[3]):
        (gradient,) = torch.autograd.grad(moments[:, :, :, j].square().sum(), pixels, retain_graph=True)
        seen = gradient.abs().amax((0, 1, 3, 4)) > 0
        assert seen[: 1 + j * time].all()
        assert not seen[1 + j * time :].any()
    for t in range(frames):
        (gradient,) = torch.autograd.grad(clip[:, :, t].square().sum(), latents, retain_graph=True)
        seen = gradient.abs().amax((0, 1, 3, 4)) > 0
        assert seen[: 1 + -(-t // time)].all()
        assert not seen[1 + -(-t // time) :].any()


def test_changing_a_frame_leaves_earlier_latents_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = Autoencoder(SMALL)
    clip = torch.rand(2, 3, 17, 16, 16) * 2 - 1
    latents = model.encode(clip)[:, 0]
    for t in (0, 1, 4, 5, 12, 16):
        changed = clip.clone()
        changed[:, :, t] = 1.0
        after = model.encode(changed)[:, 0]
        first = -(-t // 4)
        assert torch.equal(after[:, :, :first], latents[:, :, :first])
        assert not torch.equal(after[:, :, first], latents[:, :, first])


@pytest.mark.parametrize("stride", [1, 2])
def test_image_path_of_a_convolution_equals_its_video_path(stride: int) -> None:
    torch.manual_seed(0)
    conv = CausalConv3d(3, 5, time_stride=2, stride=stride).double()
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 3, 1, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(conv(x), conv.video(x))


def test_patches_undo_and_keep_frames_apart() -> None:
    pixels = torch.randn(2, 3, 5, 8, 12)
    folded = patches(pixels, 4)
    assert folded.shape == (2, 48, 5, 2, 3)
    assert torch.equal(unpatches(folded, 4), pixels)


def test_the_posterior_is_drawn_with_the_given_noise() -> None:
    model = _awake(SMALL)
    pixels = torch.randn(2, 3, 5, 16, 16, dtype=torch.float64)
    noise = torch.randn(2, 4, 2, 4, 4)
    out, moments = model(pixels, noise)
    mean, log_variance = moments.unbind(1)
    torch.testing.assert_close(out, model.decode(mean + (log_variance / 2).exp() * noise))
    torch.testing.assert_close(model(pixels)[0], model.decode(mean))


def test_every_weight_learns_from_clips() -> None:
    model = _awake(SMALL)
    out, moments = model(torch.randn(2, 3, 9, 16, 16, dtype=torch.float64), torch.randn(2, 4, 3, 4, 4))
    (out.square().mean() + moments.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_half_precision_is_close_and_answers_in_float32() -> None:
    torch.manual_seed(0)
    model = Autoencoder(SMALL)
    clip = torch.rand(1, 3, 5, 16, 16)
    full = model(clip)[0]
    half = model.bfloat16()(clip)[0]
    assert half.dtype == torch.float32
    assert (half - full).norm() / full.norm() < 0.05


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 16, 16), r"frames=8: expected 1 \+ k \* 4"),
        ((5, 18, 16), "height=18: expected a multiple of 4"),
        ((5, 16, 15), "width=15: expected a multiple of 4"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Autoencoder(SMALL).encode(torch.zeros(1, 3, *shape))


def test_latent_frames() -> None:
    model = Autoencoder(SMALL)
    assert [model.frames_to_latent(frames) for frames in (1, 5, 17)] == [1, 2, 5]
    with pytest.raises(UserError, match="frames=16"):
        model.frames_to_latent(16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_compression": 6}, "spatial_compression=6: expected a power of 2"),
        ({"patch": 8}, "patch=8: expected a divisor of spatial_compression=4"),
        ({"channel_multipliers": (1, 2)}, r"channel_multipliers=\(1, 2\): expected 3 numbers"),
        ({"channel_multipliers": (1, 0, 2)}, r"channel_multipliers=\(1, 0, 2\): expected 3 numbers"),
    ],
)
def test_impossible_shapes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **options)
