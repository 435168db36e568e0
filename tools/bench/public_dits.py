"""Public diffusion transformers for `bench step`: diffusers', and the authors' own from a checkout.

Their weights are their own random ones; only shapes and finiteness of what they give are looked at.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core.errors import UserError
from models.denoisers.dit import DiTConfig

DIFFUSERS, FACEBOOK = "diffusers DiTTransformer2DModel", "facebookresearch/DiT"


def find(network: DiTConfig, shape: Sequence[int], peer: str) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """Return the installed networks for square images, and the names of those that are not installed.

    peer: a folder that holds a checkout of facebookresearch/DiT, or ''.
    """
    found: dict[str, nn.Module] = {}
    if shape[2] > 1 or not network.preset:
        return found, ()
    installed = importlib.util.find_spec("diffusers") is not None
    if installed:
        found[DIFFUSERS] = _diffusers(network, shape[-1])
    if peer:
        found[FACEBOOK] = _checkout(Path(peer), network, shape[-1])
    return found, () if installed else (DIFFUSERS,)


def inputs(name: str, x: Tensor, time: Tensor, label: Tensor) -> tuple[Any, ...]:
    """Return the arguments of a network's forward. x: (B, C, 1, H, W)."""
    image = x[:, :, 0]
    return (image, time.long(), label) if name == DIFFUSERS else (image, time, label)


def _diffusers(network: DiTConfig, size: int) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    model: Any = DiTTransformer2DModel(
        num_attention_heads=network.heads,
        attention_head_dim=network.width // network.heads,
        in_channels=network.input_channels,
        out_channels=network.output_channels,
        num_layers=network.depth,
        sample_size=size,
        patch_size=network.patch[-1],
        num_embeds_ada_norm=network.num_classes,
    )
    return model.eval()  # in training it would drop labels; nothing else differs


def _checkout(folder: Path, network: DiTConfig, size: int) -> nn.Module:
    """Import `models.py` of the checkout under another name, since `models` is a package of this project."""
    source = folder / "models.py"
    if not source.is_file():
        raise UserError("peer", folder, f"a checkout of {FACEBOOK}, with models.py")
    if importlib.util.find_spec("timm") is None:
        raise UserError("peer", folder, f"timm installed, which {FACEBOOK} imports: pip install timm")
    spec = importlib.util.spec_from_file_location("facebook_dit", source)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["facebook_dit"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DiT_models[network.preset](input_size=size, num_classes=network.num_classes).eval()
