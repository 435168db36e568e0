"""Frozen vision networks in local folders of transformers: DINOv2, and CLIP with its text half."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import UserError
from models.pretrained import (
    class_named_in,
    identity_of,
    load_network,
    load_tokenizer,
    require_config,
    tokenizer_files,
)

DINOV2_SIDE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
MeanStd = tuple[tuple[float, float, float], tuple[float, float, float]]


class DinoV2(nn.Module):
    """DINOv2 (Oquab et al. 2023): pictures to the class token after the last normalisation.

    width: numbers of a feature.  identity: hash of weights and settings.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.identity = network.eval().requires_grad_(False), identity_of(network)
        self.width = int(network.config.hidden_size)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Return features (B, D) of pictures (B, 3, H, W) uint8."""
        x = normalised(resized(pictures, DINOV2_SIDE), IMAGENET)
        features: Tensor = self.network(pixel_values=x).last_hidden_state[:, 0]
        return features


class Clip(nn.Module):
    """CLIP (Radford et al. 2021): pictures and texts to one space, before they are brought to length 1.

    side: of the square that the picture network takes.  identity: hash of weights and settings.
    tokens: most tokens of a text; the rest is cut off.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        super().__init__()
        self.network, self.identity = network.eval().requires_grad_(False), identity_of(network)
        self.tokenizer = tokenizer
        self.width, self.side = (
            int(network.config.projection_dim),
            int(network.config.vision_config.image_size),
        )
        self.tokens = int(network.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Return embeddings (B, D) of pictures (B, 3, H, W) uint8: of the central square."""
        x = normalised(centre(resized_to_cover(pictures, self.side), self.side), CLIP)
        pooled = self.network.vision_model(pixel_values=x).pooler_output
        embedded: Tensor = self.network.visual_projection(pooled)
        return embedded

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (N, D) of texts."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.tokens, return_tensors="pt"
        )
        device = self.network.device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        pooled = self.network.text_model(input_ids=ids, attention_mask=mask).pooler_output
        embedded: Tensor = self.network.text_projection(pooled)
        return embedded


def load_dinov2(folder: Path, field: str) -> DinoV2:
    """Load the DINOv2 in a folder; UserError, naming `field`, where it is another network."""
    return DinoV2(load_of_class(folder, field, ("Dinov2Model", "Dinov2WithRegistersModel")))


def load_clip(folder: Path, field: str) -> Clip:
    """Load both halves of CLIP and the tokenizer; UserError, naming `field`, for another network."""
    network = load_of_class(folder, field, ("CLIPModel",))
    return Clip(network, load_tokenizer(tokenizer_files(folder, field)[0].parent))


def resized(pictures: Tensor, height: int, width: int = 0) -> Tensor:
    """Resize pictures (B, 3, H, W) uint8 bicubically, anti-aliased; float32, whole numbers from 0 to 255."""
    size = (height, width or height)
    x = pictures.float()
    if x.shape[-2:] != size:
        x = functional.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
    return x.round().clamp(0, 255)


def resized_to_cover(pictures: Tensor, side: int) -> Tensor:
    """Resize pictures so that the shorter side is `side`."""
    height, width = pictures.shape[-2:]
    shorter = min(height, width)
    return resized(pictures, *(max(side, int(side * size / shorter)) for size in (height, width)))


def centre(pictures: Tensor, side: int) -> Tensor:
    """Return the central square of pictures."""
    top, left = ((size - side) // 2 for size in pictures.shape[-2:])
    return pictures[..., top : top + side, left : left + side]


def normalised(pictures: Tensor, statistics: MeanStd) -> Tensor:
    """Scale pictures of 0 to 255 by the mean and deviation of each colour."""
    mean, std = (torch.tensor(each, device=pictures.device)[:, None, None] for each in statistics)
    return (pictures / 255 - mean) / std


def load_of_class(folder: Path, field: str, classes: tuple[str, ...]) -> Any:
    """Load the network in a folder; UserError, naming `field`, unless it is of one of these classes."""
    require_config(folder, field)
    if (named := class_named_in(folder)) not in classes:
        raise UserError(field, folder, f"a folder of {' or '.join(classes)}; this is one of {named}")
    return load_network(folder, named)
