"""The kinds of sweeps, by the name that `sweep.kind` gives them."""

from __future__ import annotations

from tools.sweep.plans.grid import GridConfig
from tools.sweep.plans.isoflop import IsoflopConfig
from tools.sweep.plans.planned import SweepConfig

KINDS: dict[str, type[SweepConfig]] = {"isoflop": IsoflopConfig, "grid": GridConfig}
DEFAULT: SweepConfig = IsoflopConfig()
