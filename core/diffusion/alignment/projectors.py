"""Projectors: small networks from a block's tokens to the numbers of a picture encoder's features.

mlp: three linear layers with SiLU between them (REPA, arXiv:2410.06940, section 3).
conv: one convolution over the 3 x 3 neighbours in the frame, which leaves places where they are (iREPA,
arXiv:2512.10794).
"""

from __future__ import annotations

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn

from core.diffusion.alignment.config import AlignmentConfig, ProjectorName


class TokenMlp(nn.Module):
    """Project every token by itself."""

    def __init__(self, tokens: int, inner: int, features: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(tokens, inner), nn.Linear(inner, inner)
        self.last = nn.Linear(inner, features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, T, H, W, features) of tokens (B, T, H, W, D)."""
        silu = nn.functional.silu
        projected: Tensor = self.last(silu(self.second(silu(self.first(tokens)))))
        return projected


class TokenConvolution(nn.Module):
    """Project every token with its neighbours in the frame; beyond the edge are zeros."""

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(tokens, features, 3, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, T, H, W, features) of tokens (B, T, H, W, D)."""
        frames = rearrange(tokens, "b t h w d -> (b t) d h w")
        return rearrange(self.convolution(frames), "(b t) d h w -> b t h w d", b=len(tokens))


KINDS: dict[ProjectorName, Callable[[AlignmentConfig, int, int], nn.Module]] = {
    "mlp": lambda config, tokens, features: TokenMlp(tokens, config.projector_width, features),
    "conv": lambda config, tokens, features: TokenConvolution(tokens, features),
}


def make_projector(config: AlignmentConfig, tokens: int, features: int) -> nn.Module:
    """Make the projector of tokens and features with so many numbers, from torch's generator."""
    return KINDS[config.projector](config, tokens, features)
