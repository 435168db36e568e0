"""Put kernels in the place of plain operations where they are asked for; nothing else imports them."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from core import draws
from core.diffusion.objectives.mixer import Mixer
from core.errors import UserError


def use_kernels(network: nn.Module, device: torch.device) -> None:
    """Have a network call kernels, and draws be made by one; UserError where they cannot run."""
    if device.type != "cuda":
        raise UserError("kernels", "triton", "torch without a CUDA device")
    if importlib.util.find_spec("triton") is None:
        raise UserError("kernels", "triton", "torch, since Triton is not installed (the extra `kernels`)")
    from core.kernels.draw_kernels import TritonDraws
    from models.kernels import adaln

    put_in(network, {"norm_modulate": adaln.norm_modulate, "gated_norm_modulate": adaln.gated_norm_modulate})
    draws.on_gpu = TritonDraws()


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
