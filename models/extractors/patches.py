"""Features of the patches of a picture, of a frozen network in a local folder of transformers.

DINOv2 (with or without registers): tokens after the last normalisation. CLIP, of which the picture half alone
is kept: tokens of the last layer. Tokens of the class and of registers are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.extractors.vision import CLIP, IMAGENET, load_of_class, normalised, resized
from models.pretrained import identity_of

CLASSES = ("Dinov2Model", "Dinov2WithRegistersModel", "CLIPModel", "CLIPVisionModel")


class PatchEncoder(nn.Module):
    """Pictures to features of their patches.

    patch: rows and columns of pixels of a patch.  width: numbers of a patch's features.  identity: hash of
    weights and settings.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.kind, self.identity = type(network).__name__, identity_of(network)
        self.is_clip = self.kind.startswith("CLIP")
        inner = network.vision_model if self.is_clip else network
        self.network, config = inner.eval().requires_grad_(False), inner.config
        self.patch, self.width = int(config.patch_size), int(config.hidden_size)
        self.others = 1 + int(getattr(config, "num_register_tokens", 0) if "Registers" in self.kind else 0)

    @torch.no_grad()
    def forward(self, pictures: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return features (B, h, w, D) float32 of pictures (B, 3, H, W), from 0 to 255, on a grid (h, w).

        Pictures are resized to that many patches: bicubically, and rounded to whole numbers.
        """
        rows, columns = grid
        x = resized(pictures, rows * self.patch, columns * self.patch)
        x = normalised(x, CLIP if self.is_clip else IMAGENET).to(self.network.dtype)
        options = {"interpolate_pos_encoding": True} if self.is_clip else {}
        tokens: Tensor = self.network(pixel_values=x, **options).last_hidden_state[:, self.others :]
        return tokens.float().unflatten(1, grid)


def load_patch_encoder(folder: Path, field: str) -> PatchEncoder:
    """Load the picture encoder in a folder; UserError, naming `field`, where it is another network."""
    return PatchEncoder(load_of_class(folder, field, CLASSES))
