"""Find settings of guidance that have nothing to act on."""

from __future__ import annotations

from collections.abc import Collection

from core.diffusion.guidance.branches import dropped_parts
from core.diffusion.sampling import SamplerConfig

OF_SAMPLER = (
    "guidance_start",
    "guidance_end",
    "guidance_kind",
    "guidance_rescale",
    "guidance_channels",
    "guidance_limit",
)
USUAL = SamplerConfig()


def idle_fields(config: SamplerConfig, given: Collection[str]) -> list[str]:
    """Return the fields that are set, as `name=value`, where nothing is compared that they could act on.

    given: the conditions that samples have, of "label", "text" and "frames". Bounds in time, rescaling and
    kinds act on differences of outputs; a classifier's gradient is none. zero_steps acts without any.
    """
    guide = config.guide
    if guide.weak != 1 or guide.skip != 1 or dropped_parts(given, config.guidance, guide.own_scales):
        return []
    found = {name: value for name in OF_SAMPLER if (value := getattr(config, name)) != getattr(USUAL, name)}
    if guide.zero_steps:
        found.pop("guidance_kind", None)
    if guide.momentum:
        found["guide.momentum"] = guide.momentum
    return [f"{name}={value}" for name, value in found.items()]
