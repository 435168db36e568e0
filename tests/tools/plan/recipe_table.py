"""What `longtake plan` says of every recipe, as the rows of the table in docs/recipes.md.

python -m tests.tools.plan.recipe_table [RECIPE ...] prints them.
"""

from __future__ import annotations

import sys
from typing import Any

from core.config.loading import load
from core.root import ROOT
from tools.plan.config import Config
from tools.plan.estimate import Run, estimate
from tools.plan.step_samples import workload

DATA = {
    **dict.fromkeys(("dit_s2_256", "dit_b2_256", "dit_l2_256", "dit_xl2_256", "sit_xl2_256"), "imagenet_256"),
    "dit_xl2_512": "imagenet_512",
    "text_to_image_256": "cc12m_256",
    "text_to_video_256": "video_256",
    "text_to_video_480": "video_480",
    "long_video_480": "long_video_480",
}
MFU = "plan.mfu=0.4"


def planned(name: str, *fields: str) -> Config:
    """Return the config of a recipe with the data that it is for."""
    files = [ROOT / "configs/train" / f"{name}.yaml", ROOT / "configs/plan" / f"{DATA[name]}.yaml"]
    return load(Config, files, list(fields))


def figures_of(config: Config) -> dict[str, Any]:
    """Return what a plan says."""
    sections = config.plan, config.data, config.model, config.engine, config.objective
    work = workload(config.source, config.autoencoder, *sections)
    return estimate(
        config.plan, Run(config.model, config.engine, config.ema, config.trainer, config.optimizer), work
    )


def row(name: str, found: dict[str, Any]) -> str:
    """Return a recipe's row: as configured, with `MFU`."""
    as_configured = found["configured"]
    flops = " / ".join(f"{bucket['flops_of_a_sample']:.3g}" for bucket in found["buckets"])
    cells = (
        f"`{name}`",
        f"{found['parameters'] / 1e6:,.1f} M",
        flops,
        str(found["ranks"]),
        ", ".join(map(str, as_configured["micro_batches"])),
        f"{as_configured['bytes'] / 1e9:.3g}",
        f"{as_configured['step_s']:.2g}",
        _short(as_configured["gpu_hours"]),
        _short(found["cache_bytes"] / 1e9),
    )
    return f"| {' | '.join(cells)} |"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    for recipe in sys.argv[1:] or DATA:
        print(row(recipe, figures_of(planned(recipe, MFU))), flush=True)
