"""Warnings about a latent cache: captions that were cut, channels that float16 cannot hold."""

from __future__ import annotations

import numpy as np

from core.progress import counted
from data.dataset.manifest import DatasetManifest

LEAST_STEPS = 16  # of float16, over which a channel should spread


def cache_notes(manifest: DatasetManifest) -> list[str]:
    """Return the lines for the end of `encode` and for `inspect`; none of a raw dataset."""
    if manifest.kind != "latent":
        return []
    return [*_caption_lines(manifest), *_spread_lines(manifest)]


def _caption_lines(manifest: DatasetManifest) -> list[str]:
    lines = []
    if several := manifest.extra.get("captions"):
        names = ", ".join(name for name in several["names"] if name)
        named = f"; their names are {names}" if names else ""
        lines.append(
            f"{counted(several['several'], 'sample')} with several captions, at most {several['most']}, of "
            f"which each step of training draws one{named}"
        )
    if cut := manifest.extra.get("cut_captions"):
        longest, limit = counted(cut["longest"], "token"), cut["limit"]
        if cut["cut"]:
            share = cut["cut"] / cut["captions"]
            lines.append(
                f"warning: {cut['cut']} of {counted(cut['captions'], 'caption')} ({share:.1%}) were cut at "
                f"the limit of {counted(limit, 'token')} (text_tokens, or the tokenizer's own); the longest "
                f"has {longest}"
            )
        elif cut["captions"]:
            lines.append(f"no caption was cut: the longest has {longest}, the limit is {limit}")
    return lines


def _spread_lines(manifest: DatasetManifest) -> list[str]:
    """Warn of channels whose values lie so close that float16 rounds many of them to one."""
    if manifest.latent_dtype.itemsize != 2:
        return []
    statistics = manifest.extra["statistics"]
    means, deviations = (
        np.array(statistics[name], np.float64).reshape(len(statistics[name]), -1) for name in ("mean", "std")
    )
    lines = []
    for channel, (mean, std) in enumerate(zip(means, deviations, strict=True)):
        steps = std / np.spacing(np.abs(mean).astype(np.float16)).astype(np.float64)
        worst = int(steps.argmin())
        if steps[worst] < LEAST_STEPS:
            lines.append(
                f"warning: latent channel {channel} spreads over {steps[worst]:.2g} steps of float16 "
                f"(standard deviation {std[worst]:.3g} around {mean[worst]:.3g}), less than {LEAST_STEPS}: "
                "values that differ are stored as one; encode with dtype=float32 stores them exactly"
            )
    return lines
