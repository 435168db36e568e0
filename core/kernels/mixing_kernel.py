"""Draw latents, normalise and noise them in one kernel of Triton, in one pass over the encoder's moments.

A number of a latent costs the moments it is read from, 2 M bytes in float16, and what is written: x_t and
the target, 2 + 4 bytes for a network in bfloat16; 10 bytes of images with posteriors, where the plain twin
(`Objective.noised`) moves some thousand in as many operations as `tests/tools/train/test_mixing.py` counts.
Noise and posterior draws are made in registers, by the words of `draw_kernels.py`. Arithmetic is in float32,
of the same operations in the same order as the plain twin's; products and sums are not fused.

Imports Triton: `models/kernels/kinds.py` does so where kernels are asked for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.diffusion.objectives.mixer import Ingredients, Mixed
from core.kernels.draw_kernels import BLOCK, OPTIONS, normals


@triton.jit
def mixing_kernel(
    moments,
    mean,
    std,
    posterior,
    noise,
    levels,
    frame_mask,
    still,
    is_picture,
    x_t,
    target,
    x0,
    drawn,
    frame_latents,
    samples,
    channels,
    frames,
    plane,
    unit,
    DRAWN: tl.constexpr,
    OF_FRAMES: tl.constexpr,
    LEVELS: tl.constexpr,
    MASKED: tl.constexpr,
    STILL: tl.constexpr,
    ALL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mix 4 BLOCK numbers of a sample.

    DRAWN: whether moments hold a log-variance.  OF_FRAMES: whether statistics are of frames.  LEVELS: whether
    levels are.  MASKED, STILL, ALL: whether frames are given, stills stand for some, and all is kept.
    """
    sample = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    place = 4 * first + tl.arange(0, 4 * BLOCK)
    count = channels * frames * plane
    valid = place < count
    row = place // plane
    channel, frame = row // frames, row % frames
    known = channel * frames + frame if OF_FRAMES else channel
    start = moments + sample * count * (2 if DRAWN else 1) + place
    latent = tl.load(start, mask=valid, other=0.0).to(tl.float32)
    if DRAWN:
        spread = tl.exp(0.5 * tl.load(start + count, mask=valid, other=0.0).to(tl.float32))
        latent += spread * normals(posterior, samples, sample, first.to(tl.int64), BLOCK)
    latent -= tl.load(mean + known, mask=valid, other=0.0)
    latent = tl.div_rn(latent, tl.load(std + known, mask=valid, other=1.0))
    if STILL:
        here = valid & (frame >= frames - unit) & (tl.load(is_picture + sample) != 0)
        shown = tl.load(still + (sample * channels + channel) * plane + place % plane, mask=here, other=0.0)
        latent = tl.where(here, shown, latent)
    size = samples * (frames if LEVELS else 1)
    level = levels + (sample * frames + frame if LEVELS else sample + frame * 0)
    alpha = tl.load(level, mask=valid, other=0.0)
    sigma = tl.load(level + size, mask=valid, other=0.0)
    of_data = tl.load(level + 2 * size, mask=valid, other=0.0)
    of_noise = tl.load(level + 3 * size, mask=valid, other=0.0)
    added = normals(noise, samples, sample, first.to(tl.int64), BLOCK)
    out = sample * count + place
    mixed = alpha * latent + sigma * added
    tl.store(x_t + out, mixed.to(x_t.dtype.element_ty), mask=valid)
    tl.store(target + out, of_data * latent + of_noise * added, mask=valid)
    if MASKED:
        shown = latent * tl.load(frame_mask + sample * frames + frame, mask=valid, other=0.0)
        tl.store(frame_latents + out, shown.to(frame_latents.dtype.element_ty), mask=valid)
    if ALL:
        tl.store(x0 + out, latent, mask=valid)
        tl.store(drawn + out, added, mask=valid)


class TritonMixer:
    """Mixes on a GPU.  dtype: in which the network computes."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def mix(self, given: Ingredients, *, keeps_all: bool) -> Mixed:
        """Return noisy latents.

        ValueError for a sample of 2^31 numbers: places in a sample are 32-bit integers.
        """
        moments = given.moments.contiguous()
        samples, kinds, channels, frames, *sides = moments.shape
        plane = sides[0] * sides[1]
        if kinds * channels * frames * plane >= 2**31:
            raise ValueError(f"moments of {kinds * channels * frames * plane} numbers a sample: too many")
        shape = samples, channels, frames, *sides
        dtype = torch.float32 if keeps_all else self.dtype

        def made(wanted: bool, kind: torch.dtype = torch.float32) -> Tensor | None:
            return torch.empty(shape, dtype=kind, device=moments.device) if wanted else None

        is_masked = given.frame_mask is not None
        x_t, target = torch.empty(shape, dtype=dtype, device=moments.device), made(True)
        x0, noise, frame_latents = made(keeps_all), made(keeps_all), made(is_masked, dtype)
        inputs = (given.posterior, given.noise, given.levels.contiguous(), given.frame_mask)
        pointers = (*inputs, given.still, given.is_picture, x_t, target, x0, noise, frame_latents)
        grid = (samples, triton.cdiv(triton.cdiv(channels * frames * plane, 4), BLOCK))
        mixing_kernel[grid](
            *(moments, given.mean, given.std),
            *(moments if pointer is None else pointer for pointer in pointers),  # one that goes unused
            *(samples, channels, frames, plane, given.unit),
            DRAWN=kinds > 1,
            OF_FRAMES=given.mean.shape[1] > 1,
            LEVELS=given.levels.shape[2] > 1,
            MASKED=is_masked,
            STILL=given.is_picture is not None,
            ALL=keeps_all,
            BLOCK=BLOCK,
            **OPTIONS,
        )
        assert target is not None
        return Mixed(x_t, target, x0, noise, frame_latents)
