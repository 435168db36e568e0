"""A run folder with tiny networks, as `train` leaves it; weights come without a checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.files import write_json, write_text
from models.autoencoder import kl, store
from models.denoisers.dit import DiT, DiTConfig
from tools.runs import loaded_run

MODEL = DiTConfig(width=32, depth=1, heads=2, num_classes=3, patch=(1, 1, 1))
SPACE: dict[str, Any] = {
    "mean": [0.1, 0.2, 0.3, 0.4],
    "std": [1.0, 2.0, 0.5, 1.5],
    "cache": "unused",
    "text": None,
    "text_folder": "",
    "classes": ["cat", "dog", "eel"],
    "shapes": [[4, 1, 2, 2], [4, 3, 2, 2]],
    "path": "rectified_flow",
    "prediction": "flow",
    "learned_sigma": False,
}


def make_run(folder: Path, monkeypatch: pytest.MonkeyPatch, **space: Any) -> Path:
    """Write the folder and let its weights be found; all are random, so that labels and time matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
        encoder = store.save(kl.Autoencoder(shape), folder / "autoencoder")
        state = {name: 0.2 * torch.randn(tensor.shape) for name, tensor in DiT(MODEL).state_dict().items()}
    write_json(folder / "latents.json", {**SPACE, "encoder": encoder, **space})
    write_text(
        folder / "config.yaml", "model: {width: 32, depth: 1, heads: 2, num_classes: 3, patch: [1, 1, 1]}\n"
    )
    write_json(folder / "checkpoints" / "step-00000007.0" / "manifest.json", {"number": 1})
    averaged = {name: tensor / 2 for name, tensor in state.items()}
    held = SimpleNamespace(kind_of=lambda which: None)  # of whatever imports `require_held`, now or before
    monkeypatch.setattr("core.checkpoint.weights.CheckpointReader", lambda folder: held)
    monkeypatch.setattr(
        loaded_run, "load_weights", lambda path, which: {"ema": averaged, "raw": state}[which]
    )
    return folder
