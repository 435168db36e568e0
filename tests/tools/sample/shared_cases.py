"""Samples of every kind of guidance and condition, by one rank or by several that share their tokens.

Run by `test_shared_guidance.py`, once a rank: words are the folder to work in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core import environment
from core.batch import Condition
from core.config.loading import to_dict
from core.diffusion.generating import sample
from core.diffusion.guidance.config import GuideConfig
from core.diffusion.guidance.guides import Guides
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.levels import ChurnConfig
from core.diffusion.tasks.task import Task
from core.diffusion.tasks.windows import Windows
from core.diffusion.thresholds import ThresholdConfig
from core.draws import Draws
from core.files import write_json, write_text
from core.run.ending import end_with
from models.autoencoder import kl, store
from models.denoisers.dit import DiT, DiTConfig
from models.denoisers.skipping import WithoutBlocks
from tests.tools.made_runs import SPACE
from tools.runs import loaded_run
from tools.runs.loaded_run import LoadedRun, open_run
from tools.sample.networks.shared_tokens import Leader, together

BATCH, SHAPE = 2, (4, 3, 3, 5)  # an odd number of tokens, so that a share has padding
PLAIN = DiTConfig(
    width=24, depth=3, heads=2, num_classes=3, patch=(1, 1, 1), text_width=8, frame_condition=True
)
NETWORKS = {
    "plain": PLAIN,
    "ring": replace(PLAIN, heads=3, positions="rotary", qk_norm=True),  # heads that two ranks do not divide
    "levels": replace(PLAIN, frame_levels=True),
    "weak": replace(PLAIN, depth=1),
}
EULER = SamplerConfig(steps=3, guidance=3.0)


def make_runs(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Write a run of each network and let their weights be found, which are random and large."""
    shape = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    torch.manual_seed(0)
    encoder = store.save(kl.Autoencoder(shape), folder / "plain/autoencoder")
    states = {}
    for name, config in NETWORKS.items():
        if name != "plain":
            torch.manual_seed(0)
            store.save(kl.Autoencoder(shape), folder / name / "autoencoder")
        write_json(folder / name / "latents.json", {**SPACE, "encoder": encoder})
        write_text(folder / name / "config.yaml", f"model: {json.dumps(to_dict(config))}\n")
        write_json(folder / name / "checkpoints/step-00000007.0/manifest.json", {"number": 1})
        states[name] = {n: 0.15 * torch.randn(t.shape) for n, t in DiT(config).state_dict().items()}
    patch.setattr(loaded_run, "load_weights", lambda path, which: states[path.parent.parent.name])


def condition(*, text: bool = False, frames: bool = False) -> Condition:
    """Return what every rank would draw alike."""
    draw = torch.Generator().manual_seed(5)
    found = Condition(label=torch.tensor([0, 2]))
    if text:
        tokens = torch.randn(BATCH, 4, 8, generator=draw)
        found = replace(found, text=tokens, text_length=torch.tensor([4, 2]))
    if frames:
        mask = torch.tensor([[1.0, 0, 0]]).expand(BATCH, -1)
        latents = torch.randn(BATCH, *SHAPE, generator=draw) * mask[:, None, :, None, None]
        found = replace(found, frame_mask=mask, frame_latents=latents)
    return found


def cases(runs: dict[str, LoadedRun]) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield each way of sampling by name."""
    model = {name: run.model for name, run in runs.items()}
    path, draws = make_path("rectified_flow"), Draws(3, 0, torch.arange(BATCH), torch.zeros(BATCH).long())
    known = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(6))
    kept = torch.zeros(BATCH, 1, *SHAPE[1:])
    kept[:, :, 0] = kept[:, :, :, 0] = 1

    def case(
        config: SamplerConfig, given: Condition | None = None, network: str = "plain", **more: Any
    ) -> Callable[[], Tensor]:
        settings = (given or condition(), config, path, "flow", draws)
        size = (BATCH, *SHAPE)
        if network == "levels":
            more["frames_per_level"] = 1
        return lambda: sample(model[network], size, *settings, **more)

    both, frames = condition(text=True), condition(text=True, frames=True)
    negative = Condition(torch.tensor([1, -1]), both.text, torch.tensor([0, 3]))
    weak, skip = GuideConfig(weak=2.0), GuideConfig(skip=2.0, skip_blocks=(1,))
    projected = {"task": Task(known=known, kept=kept, keep="projection")}
    plain = replace(EULER, guidance=1.0)
    yield "text", case(EULER, both)
    yield "ring", case(EULER, both, "ring")
    yield "one by one", case(replace(EULER, guide=GuideConfig(together=False)), both)
    yield "own scales", case(replace(EULER, guide=GuideConfig(label=2.0, text=4.0, frames=1.5)), frames)
    yield "negative", case(EULER, both, guides=Guides(negative=negative))
    yield "interval", case(replace(EULER, guidance_start=0.7, guidance_end=0.2))
    yield "weak", case(replace(plain, guide=weak), both, guides=Guides(weak=model["weak"]))
    yield (
        "skip",
        case(replace(plain, guide=skip), both, guides=Guides(skipping=WithoutBlocks(model["plain"], (1,)))),
    )
    yield "cfg_zero", case(replace(EULER, guidance_kind="cfg_zero", guide=GuideConfig(zero_steps=1)))
    momentum = GuideConfig(momentum=-0.5)
    yield "apg", case(replace(EULER, guidance_kind="apg", guidance_limit=0.5, guide=momentum), both)
    yield "rescale", case(replace(EULER, guidance_rescale=0.7, guidance_channels=3))
    for kind in ("static", "dynamic", "deviation"):
        bound = ThresholdConfig(kind=kind, limit=0.8)  # type: ignore[arg-type]
        yield kind, case(replace(EULER, threshold=bound))
    yield "given frames", case(EULER, frames)
    yield "levels", case(plain, frames, "levels")
    yield "rolling", case(replace(EULER, frame_lag=1), both, "levels")
    yield "replacement", case(EULER, task=Task(known=known, kept=kept))
    yield "start", case(EULER, task=Task(known=known, start_time=0.6))
    yield "windows", case(EULER, frames, task=Task(windows=Windows(2, 1)))
    yield "churned", case(replace(EULER, solver="edm", churn=ChurnConfig(amount=1.0)))
    yield "heun", case(replace(EULER, solver="heun"), both)
    yield "projection", case(EULER, both, **projected)
    yield "projection by ring", case(EULER, both, "ring", **projected)
    several = Guides(weak=model["weak"], skipping=WithoutBlocks(model["plain"], (1,)))
    guide = GuideConfig(weak=1.5, skip=1.5, skip_blocks=(1,), together=False)
    yield "projection of several", case(replace(EULER, guide=guide), both, guides=several, **projected)
    windowed = Task(known=known, kept=kept, keep="projection", windows=Windows(2, 1))
    yield "projection in windows", case(EULER, both, task=windowed)


def main() -> None:
    folder, count = Path(sys.argv[1]), environment.place().size
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        runs = folder / f"runs-{environment.rank()}-of-{count}"
        make_runs(runs, patch)

        def lead(leader: Leader | None) -> None:
            sequence = None if leader is None else leader.sequence
            opened = {
                name: open_run(runs / name, "", "ema", torch.device("cpu"), torch.float32, sequence)
                for name in NETWORKS
            }
            if leader is not None:
                leader.open(*((str(runs / name), run) for name, run in opened.items()), precision="fp32")
            torch.save({name: make() for name, make in cases(opened)}, folder / f"{count}.pt")

        if count == 1:
            lead(None)
        else:
            # Others open the folders that the first names, which hold the same.
            together(count, "cpu", folder, lead)


if __name__ == "__main__":
    end_with(main)
