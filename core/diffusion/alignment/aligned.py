"""The alignment of a denoiser's block with features of the clean pictures, added to another loss.

REPA (arXiv:2410.06940, eq. 8): the tokens of a block, projected, are to point where the features of a frozen
picture encoder point at their place. iREPA (arXiv:2512.10794) normalises features over the picture first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from core.diffusion.alignment.config import AlignmentConfig, block_of, last_step, weight_at
from core.diffusion.alignment.projectors import make_projector
from core.diffusion.objectives.own import Own
from core.losses import Losses

PROJECTOR = "projector"
"""The part of the objective's own parameters that projects tokens."""

TINY = 1e-6  # added to a deviation over patches

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Alignment:
    """The alignment of a run: which block, with which features, by which projector.

    blocks: of the network.  width: numbers of a token.  features: numbers of a patch's features.  steps: of
    the run.
    """

    config: AlignmentConfig
    blocks: int
    width: int
    features: int
    steps: int

    @property
    def block(self) -> int:
        """The aligned block, counted from 0."""
        return block_of(self.config, self.blocks)

    @property
    def end(self) -> int | None:
        """The number of steps with alignment; None where it never ends."""
        return last_step(self.config, self.steps)

    def projector(self) -> torch.nn.Module:
        """Make the projector, from torch's generator."""
        return make_projector(self.config, self.width, self.features)

    def added(self, losses: Losses, tokens: Tensor, features: Tensor, own: Own, step_index: int) -> Losses:
        """Return the losses with the alignment of every sample, by its weight in this step.

        tokens: (B, T, H, W, D) of the block.  features: (B, F, h, w, E).  own: calls the projector.
        """
        wanted = self.config
        features = features.to(tokens.device, torch.float32)
        if wanted.spatial_norm:
            features = spatially_normalised(features, wanted.spatial_mean)
        projected = own(PROJECTOR, tokens.float())
        distance = cosine_distance(projected, features)
        weight = weight_at(wanted, step_index, self.steps)
        extras = {"squared_error": losses.loss, **losses.extras, "alignment": distance}
        return Losses(losses.loss + weight * distance, losses.time, extras)


def not_aligned(losses: Losses) -> Losses:
    """Return losses of a step in which the alignment has ended, with the columns that there were before."""
    none = torch.full_like(losses.loss, torch.nan)
    extras = {"squared_error": losses.loss, **losses.extras, "alignment": none}
    return Losses(losses.loss, losses.time, extras)


def cosine_distance(projected: Tensor, features: Tensor) -> Tensor:
    """Return 1 - cosine of projected tokens and features, the mean over tokens, (B,) float32.

    projected: (B, T, H, W, E).  features: (B, F, h, w, E), brought to the tokens' grid by `on_grid`.
    """
    grid = (projected.shape[1], projected.shape[2], projected.shape[3])
    cosines = functional.cosine_similarity(projected.float(), on_grid(features.float(), grid), dim=-1)
    return 1 - cosines.flatten(1).mean(1)


def on_grid(features: Tensor, grid: Grid) -> Tensor:
    """Bring features (B, F, h, w, E) to a grid (T, H, W): (B, T, H, W, E).

    Along an axis on which they are denser than the grid by means over areas, then, where they are sparser,
    linearly between the centres of patches. Equal grids leave them as they are.
    """
    here: Grid = (features.shape[1], features.shape[2], features.shape[3])
    if here == grid:
        return features
    x = rearrange(features, "b f h w e -> b e f h w")
    fewer = tuple(min(a, b) for a, b in zip(here, grid, strict=True))
    if fewer != here:
        x = functional.adaptive_avg_pool3d(x, fewer)  # type: ignore[arg-type]
    if fewer != grid:
        x = functional.interpolate(x, grid, mode="trilinear", align_corners=False)
    return rearrange(x, "b e f h w -> b f h w e")


def spatially_normalised(features: Tensor, share: float = 1.0) -> Tensor:
    """Take a share of the mean over each picture's patches from its features, and divide by their deviation.

    features: (B, F, h, w, E), of F pictures.
    """
    x = features - share * features.mean((2, 3), keepdim=True)
    return x / (features.std((2, 3), correction=0, keepdim=True) + TINY)
