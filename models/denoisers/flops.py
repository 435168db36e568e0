"""How much arithmetic a network takes, exactly, in multiply-accumulates (MACs, two operations each)."""

from __future__ import annotations

import math

from models.denoisers.dit import DiTConfig
from models.layers.embeddings import Grid, TimeEmbedding


def forward_macs(config: DiTConfig, shape: Grid, text_tokens: int = 0) -> int:
    """MACs of one forward pass of a DiT over one sample (T, H, W), matrix products only.

    adaLN and the time embedding run once a sample and not once a token, and attention grows with the square
    of the tokens; rules of thumb (6 x parameters x tokens) miss both. "Gflops" of arXiv:2212.09748 are MACs.
    """
    width, tokens = config.width, math.prod(config.grid(shape))
    patch = math.prod(config.patch)
    per_token = 4 * width**2 + 2 * width * int(width * config.mlp_ratio)
    block = tokens * per_token + 2 * tokens**2 * width + 6 * width**2
    if config.text_width:
        text_tokens = max(text_tokens, 1)  # without text there is still one empty token
        block += (
            2 * tokens * width**2
            + 2 * text_tokens * width * config.text_width
            + 2 * tokens * text_tokens * width
        )
    ends = tokens * patch * width * (config.input_channels + config.output_channels)
    if config.frame_condition:
        ends += tokens * patch * width * (config.input_channels + 1)
    once = TimeEmbedding.FREQUENCIES * width + width**2 + 2 * width**2
    return config.depth * block + ends + once


def train_flops(config: DiTConfig, shape: Grid, text_tokens: int = 0) -> int:
    """Floating-point operations of forward and backward of one sample: 2 per MAC, backward twice forward."""
    return 6 * forward_macs(config, shape, text_tokens)
