"""Weights that others published as `.pt` or `.pth`: read by torch's restricted unpickler, tensors alone.

Nothing of this project is stored so, and no data are read so. The file is one that a person names as weights;
what is not a tensor, a number, a text, or a container of these ends the reading (docs/security.md).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.files import open_regular


def read_tensors(path: Path, field: str) -> dict[str, Tensor]:
    """Return the tensors of a file by name; UserError, naming `field`, if it is no such file.

    A file may hold them under `state_dict`, as training scripts save them.
    """
    try:
        with open_regular(path) as file:
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(field, path, f"a file of weights ({reason})") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(field, path, "a file of tensors by name")
    return {str(name): value for name, value in content.items()}
