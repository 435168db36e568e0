"""Encode samples of one shape: latents, features and stills of each view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from data.dataset.faults import Fault
from data.latent.packs import LATENT_DTYPE, Shape


class FeatureEncoder(Protocol):
    """Turns pictures into features of patches. identity: what a cache records of it."""

    identity: dict[str, Any]

    def encode_features(self, pixels: Tensor, shape: Shape) -> Tensor:
        """Return features (B, F, h, w, E) of this shape of pixels (B, 3, T, H, W) uint8, on the CPU."""
        ...


@dataclass(frozen=True)
class Views:
    """Encoded samples. ids: (n,).  latents: (V, n, M, C, T, H, W) of V views.

    features: (n, V, F, h, w, E) float16; None where they are not stored.  stills: likewise
    (n, V, 1, C, 1, H, W).
    """

    ids: np.ndarray
    latents: np.ndarray
    features: np.ndarray | None = None
    stills: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, which: slice | np.ndarray) -> Views:
        """Return some of the samples: a range, or those where (n,) bool is true."""
        features, stills = (None if part is None else part[which] for part in (self.features, self.stills))
        return Views(self.ids[which], self.latents[:, which], features, stills)

    def __add__(self, other: Views) -> Views:
        """Return these samples and then those."""
        ids = np.concatenate([self.ids, other.ids])
        latents = np.concatenate([self.latents, other.latents], 1)
        features, stills = _joined(self.features, other.features), _joined(self.stills, other.stills)
        return Views(ids, latents, features, stills)

    def faults(self) -> dict[int, Fault]:
        """Return the place of each sample that is not finite, and what of it is not."""
        found: dict[int, Fault] = {}
        beside = ((self.features, "features"), (self.stills, "stills"))
        for array, name in (*beside, (np.moveaxis(self.latents, 1, 0), "latents")):
            if array is None:
                continue
            finite = np.isfinite(array.reshape(len(self), -1)).all(1)
            fault = Fault("encode", f"its {name} are not finite in {array.dtype.name}")
            found |= dict.fromkeys(np.flatnonzero(~finite).tolist(), fault)
        return found


def _joined(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else np.concatenate([first, second])


def standing_still(pixels: Tensor) -> Tensor:
    """Return clips (B, 3, T, H, W) in which the last picture of each stands still."""
    return pixels[:, :, -1:].expand_as(pixels).contiguous()


def features_of(encoder: FeatureEncoder, views: Sequence[Tensor], shape: Shape) -> np.ndarray:
    """Return the features (n, V, F, h, w, E) float16 of views, each pixels (n, 3, T, H, W)."""
    with torch.inference_mode():
        found = [encoder.encode_features(view, shape) for view in views]
    return torch.stack(found, 1).to(torch.float16).numpy().astype(LATENT_DTYPE, copy=False)
