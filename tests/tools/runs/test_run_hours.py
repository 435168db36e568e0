"""What a dry run says of hours follows from the time of single samples."""

from __future__ import annotations

import math
import re

import pytest
import torch

from core.config.loading import load
from core.distributed.ranks import World
from tests.data.raw_datasets import make_raw
from tests.tools.train_autoencoder.test_job import FIELDS
from tools.runs import run_hours
from tools.train_autoencoder import pixel_memory
from tools.train_autoencoder.config import Config
from tools.train_autoencoder.job import make_loader
from tools.train_autoencoder.pixel_memory import memory_of

WORLD = World(0, 2, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory):
    raw = make_raw(tmp_path_factory.mktemp("raw"))
    found = load(Config, overrides=[f"source={raw.folder}", "output=run", "data.group_size=24", *FIELDS])
    loader = make_loader(raw, found.data, found.model, WORLD, found.seed, 0)
    sections = found.model, found.objective, found.ema, found.optimizer
    return memory_of(*sections, loader, 1, found.engine)


def test_hours_are_a_ranks_samples_times_the_seconds_of_one(memory, monkeypatch) -> None:
    """Two shapes of different speed: each counts by its share of the groups and a rank's part of one."""
    plan = memory.planned[0].plan
    took = iter([0.5, 2.0])
    monkeypatch.setattr(run_hours, "pass_seconds", lambda *_: next(took))
    step = plan.config.groups_per_step * sum(
        plan.weights[n] * plan.share(n) * t for n, t in zip((0, 1), (0.5, 2.0), strict=True)
    )
    line = run_hours.hours_line(memory, WORLD, 1000, plan.samples)
    assert line.startswith(f"hours: {1 / step:.3g} steps per second by single samples timed here on cpu")
    samples = plan.config.groups_per_step * sum(
        w * n for w, n in zip(plan.weights, plan.group_sizes, strict=True)
    )
    assert (
        f"in the end {round(1000 * samples):,} samples seen, {1000 * samples / plan.samples:.3g} epo" in line
    )


def test_a_pass_is_timed_and_nothing_too_large_is(memory, monkeypatch) -> None:
    make = memory.planned[0].passes(0, 1)
    before = torch.random.get_rng_state()
    assert run_hours.pass_seconds(make, torch.float32, WORLD.device) > 0
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr(run_hours, "LONGEST", 1)
    monkeypatch.setattr(run_hours, "pass_seconds", lambda *_: 1 / 0)
    assert "hours: not timed" in run_hours.hours_line(memory, WORLD, 10, 0)


def test_where_a_pass_is_too_long_one_over_fewer_pixels_counts_by_its_share(memory, monkeypatch) -> None:
    """Seconds that grow with pixels give the same hours by smaller samples."""
    planned, made = memory.planned[0], list[tuple[int, ...]]()
    monkeypatch.setattr(pixel_memory, "_pass", lambda model, objective, shape: made.append(shape))

    def by_pixels(make, *_) -> float:
        make()
        return 1e-4 * math.prod(made[-1])

    monkeypatch.setattr(run_hours, "pass_seconds", by_pixels)
    whole = run_hours.hours_line(memory, WORLD, 10, 0)
    most = max(math.prod(shape) for shape in planned.shapes) / 4
    monkeypatch.setattr(run_hours, "LONGEST", most * memory.numbers)
    line = run_hours.hours_line(memory, WORLD, 10, 0)
    assert line == re.sub("single samples", "samples of down to 1/4 of the work", whole)
    assert math.prod(made[-1]) <= most
