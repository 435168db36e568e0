"""Weights that others published as `.pt` or `.pth`: read by torch's restricted unpickler, tensors alone.

Nothing of this project is stored so, and no data are read so. A file that is read is one that a person names
as weights; what is not a tensor, a number, a text, or a container of these ends the reading
(docs/security.md).
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.files import atomic_file, open_regular

NONE_UNASKED: Mapping[str, str] = {}


def read_tensors(
    path: Path,
    field: str,
    sets: Sequence[str] = ("state_dict",),
    unasked: Mapping[str, str] = NONE_UNASKED,
) -> dict[str, Tensor]:
    """Return the tensors of a file by name; UserError, naming `field`, if it is no such file.

    sets: names under which training scripts save a set of weights; of those that a file has the first is
    taken, and what lies beside it is not. A script's `argparse.Namespace` may, which runs no code.
    unasked: names of sets that are not meant, with what asks for them: UserError for a file of these alone.
    """
    try:
        with open_regular(path) as file, torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(field, path, f"a file of weights ({reason})") from None
    if isinstance(content, dict):
        held = [name for name in (*sets, *unasked) if isinstance(content.get(name), dict)]
        if held and held[0] in unasked:
            expected = f"a file of tensors by name, or of sets called {' or '.join(sets)}"
            raise UserError(field, path, f"{expected}; this one has {held[0]}, for {unasked[held[0]]}")
        content = content[held[0]] if held else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(field, path, "a file of tensors by name")
    return {str(name): value for name, value in content.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name as a file that other projects read by `torch.load`, whole or not at all."""
    with atomic_file(path) as file:
        torch.save(dict(tensors), file)
