"""Measure how fast this machine trains the networks of a demo: a few steps of each, in some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from torch import nn

from core import environment
from core.config.loading import load
from core.memory.free import USABLE, free_memory
from core.progress import say, size
from core.root import ROOT
from data.media.formats import MediaError
from data.order.buckets import Bucket, BucketConfig, available_frames, is_image
from launch.demo.own.choice import DENOISERS, precision_of
from launch.demo.own.step_times import Speed
from models.denoisers.dit import DiTConfig
from models.denoisers.network import example_inputs, train_flops
from tools.train_autoencoder.config import Config as EncoderConfig

RECIPE = ROOT / "configs" / "demo" / "train-autoencoder.yaml"
REPEATS = 3
SIDE, BATCH, FRAMES = 64, 4, 5  # of what the autoencoder is tried on
READ = (Bucket(1, SIDE, SIDE), Bucket(FRAMES, SIDE, SIDE))  # what samples are read as
SAMPLES = 24  # of either kind
LATENT = (4, 1, 24, 24)  # the denoiser: of an image of 96 x 96 pixels

Read = Callable[[int, Bucket, BucketConfig], object]
"""Decodes a sample of the folder, by number, as pixels of a bucket; MediaError where it cannot be read."""


def measure_speed(ranks: int, media: np.ndarray, read: Read) -> Speed:
    """Time training steps on one rank, and count on as many ranks at once as there are devices or cores; time
    how long some samples of the folder take to read.

    media: (samples,) MEDIA_DTYPE.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    at_once = min(ranks, torch.cuda.device_count() if on_gpu else environment.threads())
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if ranks > 1 else threads)
    try:
        image = at_once * BATCH * SIDE**2 / _encoder_s(device, 1)
        clip = at_once * BATCH * FRAMES * SIDE**2 / _encoder_s(device, FRAMES)
        flops = at_once * _flops(device)
    finally:
        torch.set_num_threads(threads)
    memory = USABLE * free_memory(torch.cuda.mem_get_info()[0] if on_gpu else None, peers=ranks).bytes
    name = torch.cuda.get_device_name() if on_gpu else f"{at_once} of {environment.threads()} CPU cores"
    say(
        f"speed of {name}: the autoencoder learns from {image / 1e6:.2f} million pixels of images a second "
        f"and {clip / 1e6:.2f} of clips, the denoiser computes {flops / 1e9:.0f} GFLOP a second; a rank has "
        f"{size(memory)} of memory"
    )
    image_read, clip_read = (seconds / environment.threads() for seconds in reading_s(media, read))
    say(f"reading takes {1e3 * image_read:.3g} ms an image and {1e3 * clip_read:.3g} ms a clip, by all cores")
    precision = precision_of(device.type)
    return Speed(image, clip, flops, memory, ranks, name, precision, image_read, clip_read, on_gpu)


def reading_s(media: np.ndarray, read: Read) -> tuple[float, float]:
    """Return the seconds of one core to read an image, and a clip: means of some samples; 0 without any."""
    clips, found = BucketConfig(), []
    for bucket, kind in zip(READ, (is_image(media), ~is_image(media)), strict=True):
        rows = np.flatnonzero(kind & (available_frames(media, clips) >= bucket.frames))
        chosen = np.random.default_rng(0).permutation(rows)[:SAMPLES]
        start = time.process_time()
        for row in chosen.tolist():
            with suppress(MediaError):  # set aside, with its reason, by the job that trains on it
                read(row, bucket, clips)
        found.append((time.process_time() - start) / max(1, len(chosen)))
    return found[0], found[1]


def _encoder_s(device: torch.device, frames: int) -> float:
    """Return the seconds of a training step of the demo's autoencoder."""
    config = load(EncoderConfig, [RECIPE], ["source=-", "output=-"])
    network = config.model.build().to(device, _dtype(device))
    pixels = torch.zeros(BATCH, 3, frames, SIDE, SIDE, device=device)
    return _seconds(network, lambda: network(pixels)[0].square().mean(), device)


def _flops(device: torch.device) -> float:
    """Return the floating-point operations a second of a training step of a denoiser."""
    width, depth, heads = DENOISERS[1]
    config = DiTConfig(input_channels=LATENT[0], patch=(1, 2, 2), width=width, depth=depth, heads=heads)
    network = config.build().to(device, _dtype(device))
    inputs = example_inputs(config, (BATCH, *LATENT), device)
    one = _seconds(network, lambda: network(*inputs).square().mean(), device)
    return BATCH * train_flops(config, LATENT[1:]) / one


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if precision_of(device.type) == "bf16" else torch.float32


def _seconds(network: nn.Module, loss: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Return the shortest time of a step with its gradients; the first one warms up."""
    found = []
    for _ in range(1 + REPEATS):
        _wait(device)
        start = time.perf_counter()
        loss().backward()
        _wait(device)
        found.append(time.perf_counter() - start)
        network.zero_grad()
    return min(found[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
