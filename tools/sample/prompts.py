"""Prompts of a sampling job, embedded like the captions that the run has learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from core.errors import UserError
from core.files import read_text
from core.progress import counted, say
from data.latent.reading import compare
from tools.runs.encoders import CaptionEmbedder, Clock

LARGEST_FILE = 1 << 26  # bytes
BATCH = 32  # prompts embedded at once
SHOWN = 60  # letters of a prompt in a line


@dataclass(frozen=True)
class Prompts:
    """Texts to generate from. tokens: (P, L, D), zeros behind the last.  lengths: (P,)."""

    texts: tuple[str, ...]
    tokens: Tensor
    lengths: Tensor

    def of(self, texts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return tokens (B, L, D) and lengths (B,) of the texts with these numbers, -1 for none."""
        number = torch.from_numpy(texts).to(self.tokens.device)
        there = (number >= 0).to(self.lengths.dtype)
        chosen = number.clamp_min(0)
        tokens = self.tokens[chosen] * there.to(self.tokens.dtype)[:, None, None]
        return tokens, self.lengths[chosen] * there


def read_prompts(prompts: tuple[str, ...], file: str) -> tuple[str, ...]:
    """Return the prompts given, or those of a text file, one a line.

    UserError for both, or for an empty file.
    """
    if not file:
        return prompts
    if prompts:
        raise UserError("prompt_file", file, "'', since prompts are given too")
    try:
        lines = read_text(Path(file), LARGEST_FILE).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("prompt_file", file, f"a UTF-8 text file with a prompt a line ({error})") from None
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise UserError("prompt_file", file, "a file with a prompt a line; this one has none")
    return found


def embed(
    texts: tuple[str, ...],
    recorded: dict[str, Any] | None,
    folder: str,
    device: torch.device,
) -> Prompts | None:
    """Embed prompts with the text encoder of the run's captions.

    None for no prompts; those that are longer than the encoder takes are counted, and said.

    recorded, folder: what that is and where it lies.  Values are rounded to float16, as in a cache.
    UserError where the run knows no text, or the folder holds another encoder (the differing field).
    """
    if not texts:
        return None
    if recorded is None:
        raise UserError("prompts", texts[0], "none, since the run was trained without text")
    embedder = CaptionEmbedder(Path(folder), recorded["tokens"], device, recorded["precision"], Clock())
    if (differs := compare(recorded, embedder.identity)) is not None:
        field, then, now = differs
        raise UserError("text_encoder", folder, f"the one of the run, with {field}={then}; here it is {now}")
    _tell_cut(texts, embedder)
    found: list[Tensor] = []
    for start in range(0, len(texts), BATCH):
        found += embedder.encode_captions(list(texts[start : start + BATCH]))
    tokens = pad_sequence([rows.to(torch.float16) for rows in found], batch_first=True).to(device)
    return Prompts(texts, tokens, torch.tensor([len(rows) for rows in found], device=device))


def _tell_cut(texts: Sequence[str], embedder: CaptionEmbedder) -> None:
    """Say how many prompts lose their end."""
    lengths = embedder.count_tokens(list(texts))
    if cut := [text for text, length in zip(texts, lengths, strict=True) if length > embedder.tokens]:
        takes = f"longer than the {embedder.tokens} tokens of the text encoder, and their rest is cut off"
        say(f"warning: {counted(len(cut), 'prompt')} of {len(texts)} {takes}: {cut[0][:SHOWN]!r}")
