"""Embeddings against the formulas they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from einops import rearrange

from models.layers.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    rotary_angles,
    rotate,
    sincos_positions,
    sinusoid,
    unpatchify,
)

CPU = torch.device("cpu")


def test_sinusoid_is_cosines_then_sines_without_frequency_shift() -> None:
    out = sinusoid(torch.tensor([0.0, 999.0]), 256)
    assert out[0].tolist() == [1.0] * 128 + [0.0] * 128
    for i in (0, 5, 127):
        angle = 999.0 * 10000 ** (-i / 128)
        assert out[1, i] == pytest.approx(math.cos(angle), abs=1e-4)
        assert out[1, 128 + i] == pytest.approx(math.sin(angle), abs=1e-4)


def test_sincos_positions_of_an_image_are_the_published_table() -> None:
    height, width, size = 3, 5, 32
    omega = 1 / 10000 ** (np.arange(size // 4) / (size / 4))
    for row in range(height):
        for column in range(width):
            parts = [np.sin(column * omega), np.cos(column * omega), np.sin(row * omega), np.cos(row * omega)]
            got = sincos_positions((1, height, width), size, CPU)[row * width + column]
            np.testing.assert_allclose(got.numpy(), np.concatenate(parts), atol=1e-6)


def test_first_frame_of_a_video_has_the_positions_of_an_image_and_all_places_differ() -> None:
    video = sincos_positions((4, 3, 5), 32, CPU)
    torch.testing.assert_close(video[:15], sincos_positions((1, 3, 5), 32, CPU))
    assert torch.pdist(video).min() > 0.1


def test_rotary_scores_depend_on_the_distance_only() -> None:
    grid, size = (3, 4, 5), 24
    angles = rotary_angles(grid, size, CPU)
    assert angles.shape == (60, 12)
    query, key = torch.randn(2, size, generator=torch.Generator().manual_seed(0)).double()
    turned = [
        rotate(vector.expand(1, 60, 1, -1), angles.double())[0, :, 0].view(*grid, size)
        for vector in (query, key)
    ]
    scores = torch.einsum("thwd,xyzd->thwxyz", *turned)
    torch.testing.assert_close(scores[0, 0, 0, 1, 2, 3], scores[1, 1, 1, 2, 3, 4], rtol=1e-5, atol=1e-5)
    assert abs(scores[0, 0, 0, 1, 2, 3] - scores[0, 0, 0, 2, 2, 3]) > 1e-3
    torch.testing.assert_close(turned[0].norm(dim=-1), query.norm().expand(grid), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head_width", [2, 4, 64, 72])
def test_rotary_parts_fill_every_head_width(head_width: int) -> None:
    assert rotary_angles((2, 2, 2), head_width, CPU).shape == (8, head_width // 2)


def test_positions_made_in_inference_mode_can_be_trained_with() -> None:
    rotary_angles.cache_clear()
    with torch.inference_mode():
        rotary_angles((1, 2, 2), 8, CPU)
    x = torch.ones(1, 4, 1, 8, requires_grad=True)
    rotate(x, rotary_angles((1, 2, 2), 8, CPU)).sum().backward()
    assert x.grad is not None


def test_no_label_is_the_last_row() -> None:
    embedding = LabelEmbedding(5, 8)
    assert torch.equal(embedding(torch.tensor([-1, 5, 0])), embedding.table.weight[[5, 5, 0]])


def test_patches_are_a_strided_convolution() -> None:
    patches = PatchEmbedding(3, (2, 2, 4), 16)
    x = torch.randn(2, 3, 4, 6, 8)
    kernel = rearrange(patches.linear.weight, "d (c t h w) -> d c t h w", c=3, t=2, h=2)
    want = torch.nn.functional.conv3d(x, kernel, patches.linear.bias, stride=(2, 2, 4))
    torch.testing.assert_close(patches(x), rearrange(want, "b d t h w -> b (t h w) d"))


def test_unpatchify_puts_every_number_in_its_place() -> None:
    tokens = torch.arange(2 * 12 * 16).view(2, 12, 16)  # grid (1, 3, 4), patch (2, 2, 2), 2 channels
    out = unpatchify(tokens, (1, 3, 4), (2, 2, 2))
    assert out.shape == (2, 2, 2, 6, 8)
    # token of row 1, column 2; frame 1, row 0, column 1 inside it; channel 1
    assert out[1, 1, 1, 2, 5] == tokens[1, 1 * 4 + 2, ((1 * 2 + 0) * 2 + 1) * 2 + 1]
