"""Tiny random models in the layouts of public ones, saved by diffusers and transformers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "red", "green", "blue", "disc", "square", "moves", "left", "right", "on", "black")
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "shift_factor": 0.1,
        "scaling_factor": 0.5,
        "sample_size": 32,
    },
    "AutoencoderKLWan": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "latents_mean": [0.1, 0.2, 0.3, 0.4],
        "latents_std": [1.0, 2.0, 3.0, 4.0],
    },
    "AutoencoderKLCogVideoX": {
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_height": 32,
        "sample_width": 32,
        "scaling_factor": 0.7,
    },
    "AutoencoderKLCosmos": {
        "latent_channels": 4,
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decode_block_out_channels": (8, 8, 8, 8),
        "attention_resolutions": (),
        "resolution": 32,
        "num_layers": 1,
        "latents_mean": [0.01 * i for i in range(4 * 5)],
        "latents_std": [1 + 0.1 * i for i in range(4 * 5)],
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "scaling_factor": 0.5,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock",
        "encoder_block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8),
        "encoder_layers_per_block": (1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1),
        "encoder_qkv_multiscales": ((), (), ()),
        "decoder_qkv_multiscales": ((), (), ()),
        "scaling_factor": 0.4,
    },
}


def save_autoencoder(folder: Path, kind: str, seed: int = 0, **settings: Any) -> Path:
    """Write a tiny autoencoder of diffusers' class `kind` as `from_pretrained` reads it."""
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(diffusers, kind)(**AUTOENCODERS[kind] | settings)
    if kind == "AutoencoderKLLTXVideo":  # its statistics are buffers
        model.latents_mean.copy_(torch.linspace(-1, 1, 4))
        model.latents_std.copy_(torch.linspace(1, 2, 4))
    model.save_pretrained(folder)
    return folder
