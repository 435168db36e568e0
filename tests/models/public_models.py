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


TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "CLIPTextModel": {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "T5EncoderModel": {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "UMT5EncoderModel": {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "T5ForConditionalGeneration": {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2},
}


def save_text_encoder(folder: Path, kind: str, seed: int = 0, limit: int | None = 8) -> Path:
    """Write a tiny text encoder of transformers' class `kind`, and a tokenizer of `WORDS`, as one folder."""
    import transformers

    model_class = getattr(transformers, kind)
    config = model_class.config_class(vocab_size=3 + len(WORDS), **TEXT_ENCODERS[kind])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
    model.save_pretrained(folder)
    save_tokenizer(folder, limit)
    return folder


def save_dinov2(folder: Path, seed: int = 0) -> Path:
    """Write a tiny DINOv2 as transformers saves one."""
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


def save_clip(folder: Path, seed: int = 0, side: int = 32) -> Path:
    """Write a tiny CLIP of both halves with a tokenizer of `WORDS`."""
    import transformers

    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": 3 + len(WORDS), "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(
        text_config=small | words,
        vision_config=small | {"image_size": side, "patch_size": 8},
        projection_dim=6,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.CLIPModel(config).save_pretrained(folder)
    save_tokenizer(folder, 8)
    return folder


def save_i3d(path: Path, seed: int = 0) -> Path:
    """Write a TorchScript file that is called as the published I3D is, and gives 400 numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.jit.script(_TinyI3D()).save(path)
    return path


class _TinyI3D(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 8, (9, 1, 1))
        self.out = torch.nn.Linear(8, 400)

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        x = x.float()
        if rescale:
            x = x / 127.5 - 1
        if resize:
            x = torch.nn.functional.interpolate(x, size=[x.size(2), 7, 7])
        found = self.out(self.conv(x).relu().mean(dim=[2, 3, 4]))
        return found if return_features else found.softmax(1)


def save_tokenizer(folder: Path, limit: int | None) -> None:
    """Write a tokenizer that takes a word for a token and puts one for the end behind them."""
    import tokenizers
    import transformers

    names = ["<pad>", "<unk>", "</s>", *WORDS]
    model = tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    more = {} if limit is None else {"model_max_length": limit}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", **more
    ).save_pretrained(folder)
