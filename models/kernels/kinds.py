"""Put kernels in the place of plain operations where they are asked for; nothing else imports them."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import nn

from core import draws
from core.diffusion.objectives.mixer import Mixer
from core.errors import UserError


def use_kernels(kind: Literal["draws", "triton"], network: nn.Module, device: torch.device) -> None:
    """Have draws be made by kernels, for `triton` adaLN too; UserError where they cannot run."""
    if device.type != "cuda":
        raise UserError("kernels", kind, "torch without a CUDA device")
    if importlib.util.find_spec("triton") is None:
        raise UserError("kernels", kind, "torch, since Triton is not installed (the extra `kernels`)")
    from core.kernels.draw_kernels import TritonDraws

    draws.on_gpu = TritonDraws()
    if kind == "triton":
        from models.kernels import adaln

        names = ("norm_modulate", "gated_norm_modulate")
        put_in(network, {name: getattr(adaln, name) for name in names})


def mixer(dtype: torch.dtype) -> Mixer:
    """Return a kernel that draws latents and noises them.  dtype: in which the network computes."""
    from core.kernels.mixing_kernel import TritonMixer

    return TritonMixer(dtype)


def put_in(network: nn.Module, kernels: dict[str, object]) -> None:
    """Replace the functions that modules name, where there is a kernel of that name."""
    for module in network.modules():
        for name in getattr(module, "functions", ()):
            if name in kernels:
                setattr(module, name, kernels[name])
