"""Configurations of networks and engines that what a plan says is compared with the truth on."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from core.engine.config import EngineConfig
from models.denoisers.dit import DiTConfig


class Case(NamedTuple):
    """A network, a latent (C, T, H, W), tokens of its caption and an engine."""

    model: DiTConfig
    shape: tuple[int, int, int, int]
    text_tokens: int
    engine: EngineConfig


IMAGE = DiTConfig(width=128, depth=4, heads=4, learned_sigma=True, attention="sdpa")
TEXT = replace(IMAGE, text_width=64, num_classes=0, learned_sigma=False)
VIDEO = replace(TEXT, input_channels=16, frame_condition=True, positions="rotary", qk_norm=True)
NETWORKS = {
    "image": (IMAGE, (4, 1, 16, 16), 0),
    "text": (TEXT, (4, 1, 16, 12), 32),
    "video": (VIDEO, (16, 5, 16, 16), 24),
}
POLICIES = ("none", "selective", "every_k", "full")
CASES = {
    f"{name} {policy} {precision}": Case(
        *network,
        EngineConfig(activation_checkpointing=policy, precision=precision),  # type: ignore[arg-type]
    )
    for name, network in NETWORKS.items()
    for policy in POLICIES
    for precision in ("bf16", "fp32")
}
FAST = {"image none bf16", "image full bf16", "text selective fp32"}
