"""Means of densities over samples, and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over samples, each number of a latent counting alike, and their standard error."""
    numbers = np.array([row["numbers"] for row in rows], float)
    nats = np.array([row["nats"] for row in rows], float)
    change = np.array([row["log_determinant"] for row in rows], float)
    each = nats / numbers
    total = numbers.sum()
    scores = {
        "nats_per_dimension": float(nats.sum() / total),
        "bits_per_dimension": float(nats.sum() / total / math.log(2)),
        "nats_per_raw_dimension": float((nats + change).sum() / total),
        "bits_per_raw_dimension": float((nats + change).sum() / total / math.log(2)),
        "standard_error": float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan,
        "log_determinant_per_dimension": float(change.sum() / total),
        "samples": len(rows),
    }
    for name in ("prior", "steps_nats", "last"):
        if rows and name in rows[0]:
            scores[f"{name}_per_dimension"] = float(sum(row[name] for row in rows) / total)
    return scores


def table(scores: Mapping[str, Any], kind: str) -> str:
    """Lay the numbers out for a terminal."""
    sign = "at most " if kind == "bound" else ""
    lines = [f"-log p of latents, {sign}a mean over {scores['samples']} samples"]
    for what, name in (("normalised", ""), ("as the autoencoder gives them", "raw_")):
        nats, bits = (scores[f"{unit}_per_{name}dimension"] for unit in ("nats", "bits"))
        lines.append(f"{what:32}{nats:10.4f} nats a number{bits:10.4f} bits a number")
    return "\n".join([*lines, f"{'standard error':32}{scores['standard_error']:10.4f} nats a number"])
