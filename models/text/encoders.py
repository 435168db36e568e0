"""Frozen text encoders, read by transformers from a local folder: CLIP, T5 and UMT5.

The class is the one that the folder's config names, so that no part of it starts from random weights: the
automatic choice would give the encoder of UMT5 a decoder that nobody trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.files import read_bytes
from core.reading import json_files
from core.reading.instead import instead
from models.pretrained import (
    CONFIG,
    class_named_in,
    identity_of,
    load_network,
    load_tokenizer,
    settings_of,
    tokenizer_files,
)

# What a config may name, and the class that holds its text encoder.
CLASSES = {
    "CLIPTextModel": "CLIPTextModel",
    "CLIPTextModelWithProjection": "CLIPTextModel",
    "T5EncoderModel": "T5EncoderModel",
    "T5ForConditionalGeneration": "T5EncoderModel",
    "UMT5EncoderModel": "UMT5EncoderModel",
    "UMT5ForConditionalGeneration": "UMT5EncoderModel",
}


class TextEncoder(nn.Module):
    """Turns texts into embeddings of their tokens: the encoder's last hidden state.

    tokens: the most tokens of a text, including those that begin and end it; the rest is cut off.  width:
    numbers per token.  identity: hash of weights and settings.  tokenizer_hash: of the tokenizer's files.
    """

    def __init__(self, network: Any, tokenizer: Any, tokenizer_hash: str, tokens: int) -> None:
        super().__init__()
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        self.tokenizer_hash, self.tokens = tokenizer_hash, tokens
        self.settings = settings_of(network)
        self.width = int(network.config.hidden_size)
        self.identity = identity_of(network)

    def forward(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the embeddings of each text, (its tokens, D) float32 on the CPU, without padding."""
        tokenized = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.tokens, return_tensors="pt"
        )
        mask = tokenized["attention_mask"].to(self.network.device)
        ids = tokenized["input_ids"].to(self.network.device)
        with torch.no_grad():
            states = self.network(input_ids=ids, attention_mask=mask).last_hidden_state.float().cpu()
        return [row[:count] for row, count in zip(states, mask.sum(1).tolist(), strict=True)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text if none were cut off."""
        found = self.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(ids) for ids in found]

    def describe(self) -> dict[str, Any]:
        """Return a cache's record of its text encoder, as plain JSON values."""
        return {
            "encoder": self.identity,
            "class": self.settings["class"],
            "tokenizer": self.tokenizer_hash,
            "tokens": self.tokens,
            "width": self.width,
        }


def folder_of(folder: Path) -> Path:
    """Return where the text encoder lies: in `folder` or its `text_encoder/`; UserError if in neither."""
    place = next((p for p in (folder, folder / "text_encoder") if (p / CONFIG).is_file()), None)
    if place is None:
        expected = f"a folder with {CONFIG}, or with text_encoder/{CONFIG}{instead(folder)}"
        raise UserError("text_encoder", folder, expected)
    return place


def load(folder: Path, tokens: int = 0) -> TextEncoder:
    """Load the text encoder in `folder`, or in `text_encoder/` of a pipeline's folder, with its tokenizer.

    tokens: most tokens of a text; 0 takes the tokenizer's own limit.  The tokenizer is in the same folder, or
    in `tokenizer/` beside it.  UserError where there is none of a known class, WorkError if it is damaged.
    """
    place = folder_of(folder)
    named = class_named_in(place)
    if named not in CLASSES:
        raise UserError("text_encoder", named, f"one of {', '.join(CLASSES)}")
    network = load_network(place, CLASSES[named])
    files = tokenizer_files(place, "text_encoder")
    tokenizer = load_tokenizer(files[0].parent)
    limit = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None) or 2**31)
    if tokens > limit or (not tokens and limit > 2**16 - 1):
        what = f"at most {limit}" if limit < 2**16 else "a number; its tokenizer has no limit of its own"
        raise UserError("text_tokens", tokens, what)
    digest = hashlib.sha256()
    for file in files:
        content = read_bytes(file, json_files.LARGEST)
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return TextEncoder(network, tokenizer, digest.hexdigest(), tokens or limit)
