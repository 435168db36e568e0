"""Networks and tokenizers in local folders of transformers; nothing is downloaded, and no pickle is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import torch

from core.errors import UserError, WorkError
from core.files import fingerprint
from core.reading import json_files
from core.reading.instead import instead
from core.reading.json_files import Malformed
from models import weights
from models.foreign import read_by_library

CONFIG = "config.json"
_NOT_IDENTITY = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")

TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


class _Config(TypedDict):
    architectures: list[str]


def class_named_in(folder: Path) -> str:
    """Return the name of the class that the folder's config names first; WorkError if it names none."""
    try:
        return json_files.read(folder / CONFIG, _Config)["architectures"][0]
    except (Malformed, IndexError) as error:
        raise WorkError(f"{folder / CONFIG} names no class ({error})") from None


def require_config(folder: Path, field: str) -> None:
    """Raise UserError, naming `field`, where the folder is none of a network."""
    if not (folder / CONFIG).is_file():
        raise UserError(field, folder, f"a folder with {CONFIG}{instead(folder)}")


def settings_of(network: Any) -> dict[str, Any]:
    """Return the settings that outputs depend on, as plain JSON values."""
    settings = {k: v for k, v in network.config.to_dict().items() if k not in _NOT_IDENTITY}
    found: dict[str, Any] = json_files.plain({"class": type(network).__name__, **settings})
    return found


def identity_of(network: Any) -> str:
    """Return the hash of settings and weights."""
    return fingerprint(settings_of(network) | {"weights": weights.fingerprint(network.state_dict())})


def load_network(folder: Path, kind: str) -> Any:
    """Load a network of a class of transformers, in fp32; WorkError if the folder does not hold all of it."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"{folder} holds a {kind} of transformers, which is not installed: pip install 'longtake[public]'"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    with read_by_library(folder, kind):
        network, loading = getattr(transformers, kind).from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,  # never a pickle
            dtype=torch.float32,
            output_loading_info=True,
        )
    if missing := loading["missing_keys"]:
        raise WorkError(f"{folder}: its weights lack {len(missing)} of {kind}'s, {sorted(missing)[0]} first")
    return network


def tokenizer_files(folder: Path, field: str) -> list[Path]:
    """List the files of a network's tokenizer, in its folder or beside it.

    UserError, naming `field`, if there are none.
    """
    places = (folder, folder / "tokenizer", folder.parent / "tokenizer")
    for place in places:
        if files := [place / name for name in TOKENIZER_FILES if (place / name).is_file()]:
            return files
    raise UserError(field, folder, f"a tokenizer in one of {', '.join(map(str, places))}")


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer that pads on the right."""
    import transformers

    with read_by_library(folder, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
