"""How long training steps of a demo's networks take on a machine whose speed was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.order.buckets import Bucket, GroupConfig, group_sizes
from launch.demo.own.group_sizes import ENCODER_GROUP, TRAIN_GROUP, group_multiple
from models.denoisers.dit import DiTConfig
from models.denoisers.network import train_flops

COMPRESSION = 4  # of the autoencoder's space and time, as in configs/demo/train-autoencoder.yaml
EFFICIENCY = 0.8  # a step also reads data, updates weights and averages
Sizes = tuple[int, int, int]  # of a denoiser: width, depth, heads


@dataclass(frozen=True)
class Speed:
    """What this machine does, all ranks together.

    image_pixels, clip_pixels: pixels a second that the demo's autoencoder learns from, in images and clips.
    flops: of training a denoiser, a second.  memory: bytes that a rank may take.  precision: it was measured
    in, and is trained in.  image_read, clip_read: seconds that all cores together take to read a sample.
    reads_beside: while the device trains.
    """

    image_pixels: float
    clip_pixels: float
    flops: float
    memory: float
    ranks: int
    device: str = "cpu"
    precision: str = "fp32"
    image_read: float = 0.0
    clip_read: float = 0.0
    reads_beside: bool = False


def shares_of(shapes: Sequence[Bucket]) -> list[float]:
    """Return each shape's share of the groups: images and clips evenly, within these evenly by shape."""
    kinds = [shape.frames > 1 for shape in shapes]
    return [1 / (len(set(kinds)) * kinds.count(kind)) for kind in kinds]


def encoder_step(shapes: Sequence[Bucket], weights: Sequence[float], speed: Speed) -> float:
    """Return the seconds of a step of the autoencoder."""
    multiple = group_multiple(speed.ranks)
    config = GroupConfig(group_size=ENCODER_GROUP, rank_multiple=multiple, cost_quadratic=0.0)
    sizes = group_sizes([max(1, shape.pixels // 256) for shape in shapes], config)
    learns = reads = 0.0
    for n, w, shape in zip(sizes, weights, shapes, strict=True):
        clip = shape.frames > 1
        learns += n * shape.pixels * w / (speed.clip_pixels if clip else speed.image_pixels)
        reads += n * w * (speed.clip_read if clip else speed.image_read)
    learns /= EFFICIENCY
    return groups_of_step(shapes) * (max(learns, reads) if speed.reads_beside else learns + reads)


def train_step(
    model: Sizes, shapes: Sequence[Bucket], weights: Sequence[float], speed: Speed
) -> tuple[float, float]:
    """Return the seconds of a step of the denoiser, and its samples."""
    config = GroupConfig(group_size=TRAIN_GROUP, rank_multiple=group_multiple(speed.ranks))
    sizes = group_sizes([network_of(model).tokens(latents_of(shape)) for shape in shapes], config)
    flops = [train_flops(network_of(model), latents_of(shape)) for shape in shapes]
    groups = groups_of_step(shapes)
    time = sum(n * f * w for n, f, w in zip(sizes, flops, weights, strict=True)) / speed.flops
    return groups * time / EFFICIENCY, groups * sum(n * w for n, w in zip(sizes, weights, strict=True))


def groups_of_step(shapes: Sequence[Bucket]) -> int:
    """Return the groups of a step: one of images, one of clips."""
    return len({shape.frames > 1 for shape in shapes})


def network_of(model: Sizes) -> DiTConfig:
    """Return the denoiser of these sizes, on the latents of the demo's autoencoder."""
    width, depth, heads = model
    return DiTConfig(input_channels=4, patch=(1, 2, 2), width=width, depth=depth, heads=heads)


def latents_of(shape: Bucket) -> tuple[int, int, int]:
    """Return the shape of the latents of a sample (T', H', W')."""
    frames = 1 + (shape.frames - 1) // COMPRESSION
    return frames, shape.height // COMPRESSION, shape.width // COMPRESSION
