"""Make a text encoder from a folder's captions, where none is given: a fixed vector for each word.

It is written in the published layout of a T5 encoder without layers, so that `encode` and `sample` read it as
they read any other. It knows neither synonyms nor the order of words; what each word looks like is learned in
training. A word has the same vector in every folder.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from core.checkpoint.tensor_file import write_tensors
from core.files import write_json

WIDTH = 64  # numbers of a vector
MOST_WORDS = 20_000  # the most frequent ones; others are "unknown"
MOST_TOKENS = 64  # of a caption
PAD, UNKNOWN = "<pad>", "<unk>"
_WORD = re.compile(r"\w+|[^\w\s]+")  # as the pre-tokenizer "Whitespace" cuts


def write_word_encoder(folder: Path, captions: Iterable[str]) -> int:
    """Write the encoder for the words of these captions into `folder`; return how many words it knows."""
    counts = Counter(word for caption in captions for word in _WORD.findall(caption.lower()))
    words = [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_WORDS]]
    vocabulary = [PAD, UNKNOWN, *words]
    folder.mkdir(parents=True, exist_ok=True)
    vectors = torch.from_numpy(np.stack([_vector(word) for word in vocabulary]))
    write_tensors(
        folder / "model.safetensors",
        {"shared.weight": vectors, "encoder.final_layer_norm.weight": torch.ones(WIDTH)},
    )
    write_json(folder / "tokenizer.json", _tokenizer(vocabulary))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MOST_TOKENS,
            "pad_token": PAD,
            "unk_token": UNKNOWN,
        },
    )
    sizes = {"d_model": WIDTH, "d_kv": 16, "d_ff": WIDTH, "num_heads": 4, "num_layers": 0}
    model = {"architectures": ["T5EncoderModel"], "model_type": "t5", "vocab_size": len(vocabulary)}
    write_json(folder / "config.json", {**model, **sizes, "pad_token_id": 0, "eos_token_id": 1})
    return len(words)


def _vector(word: str) -> np.ndarray:
    """Return the word's vector, (WIDTH,) float32, a function of the word alone."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


def _tokenizer(vocabulary: list[str]) -> dict[str, object]:
    """Return a tokenizer of the library `tokenizers`: lower case, words and punctuation, one number each."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": word, **special} for number, word in enumerate(vocabulary[:2])
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(vocabulary)},
            "unk_token": UNKNOWN,
        },
    }
