"""What a step of every kind of objective takes, counted and as the allocator gives it out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.diffusion.alignment.aligned import Alignment
from core.diffusion.alignment.config import AlignmentConfig
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.mean_flow import MeanFlowConfig
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.memory.counting import live_bytes, prepare
from core.memory.micro_batch import Measured
from core.optim.groups import OptimizerConfig
from models.denoisers.dit import DiTConfig
from tools.runs.memory.run_memory import MemoryOfRun, groups_of, teacher_bytes
from tools.train.denoiser_pass import Aligned, activations, denoiser_pass

CPU = torch.device("cpu")
SHAPE = (4, 1, 16, 16)
FP32 = EngineConfig(precision="fp32")
DIT = DiTConfig(width=64, depth=3, heads=2, num_classes=2, attention="math", input_channels=4)
TWO_TIMES = DiTConfig(**{**vars(DIT), "two_times": True})
LEARNED = DiTConfig(**{**vars(DIT), "learned_sigma": True})
LEVELS = DiTConfig(**{**vars(DIT), "frame_levels": True})
DIFFERENCE = MeanFlowConfig(derivative="difference")
STEPS: dict[str, tuple[Any, ...]] = {
    "denoising": (DIT, ObjectiveConfig()),
    "jvp": (TWO_TIMES, ObjectiveConfig(kind="mean_flow")),
    "difference": (TWO_TIMES, ObjectiveConfig(kind="mean_flow", mean_flow=DIFFERENCE)),
    "consistency": (DIT, ObjectiveConfig(kind="consistency", path="edm", prediction="edm")),
    "distillation": (DIT, ObjectiveConfig(kind="distillation")),
    "learned variance": (
        LEARNED,
        ObjectiveConfig(path="ddpm_cosine", prediction="noise", learned_sigma=True),
    ),
    "learned weighting": (DIT, ObjectiveConfig(weighting="learned")),
    "levels of frames": (LEVELS, ObjectiveConfig(frame_times="independent")),
    "posterior mean": (DIT, ObjectiveConfig(path="ddpm_linear", prediction="posterior_mean")),
}


def made(name: str, samples: int, engine: EngineConfig = FP32, aligned: Aligned | None = None) -> Any:
    model, learned = STEPS[name]
    return denoiser_pass(engine, model, (samples, *SHAPE), 0, aligned, learned)


def counted(name: str, samples: int, *, fake: bool, aligned: Aligned | None = None) -> list[int]:
    make = lambda: made(name, samples, FP32, aligned)  # noqa: E731
    return live_bytes(make, dtype=torch.float32, device=CPU, fake=fake)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_counted_as_the_allocator_gives_it_out(name: str) -> None:
    model, loss = made(name, 4)
    prepare(model, torch.float32)
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as seen:
        loss().backward()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    one, two = (counted(name, samples, fake=False) for samples in (1, 2))
    assert Measured(one, two).bytes(4) == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("name", STEPS)
def test_shapes_alone_tell_what_a_computed_step_takes(name: str) -> None:
    assert max(counted(name, 2, fake=True)) == max(counted(name, 2, fake=False))


def test_a_derivative_takes_more_than_the_network_alone_and_a_difference_hardly_more() -> None:
    peaks = {name: max(counted(name, 2, fake=False)) for name in ("denoising", "jvp", "difference")}
    assert peaks["jvp"] > 1.5 * peaks["denoising"]
    assert peaks["difference"] < 1.1 * peaks["denoising"]


@pytest.mark.parametrize("name", ["jvp", "consistency", "learned weighting"])
def test_a_few_blocks_tell_the_bytes_of_many_and_alignment_adds_its_own(name: str) -> None:
    model, learned = STEPS[name]
    model = type(model)(**{**vars(model), "depth": 6})
    aligned = Aligned(Alignment(AlignmentConfig(block=1, projector_width=32), 6, 64, 16, 10), (1, 8, 8, 16))

    def peak(aligned: Aligned | None) -> int:
        make = lambda: denoiser_pass(FP32, model, (1, *SHAPE), 0, aligned, learned)  # noqa: E731
        return max(live_bytes(make, dtype=torch.float32, device=CPU, fake=True))

    each = (None, aligned)
    found = [activations(model, FP32, SHAPE, 0, aligned=one, learned=learned).bytes(1) for one in each]
    assert found[0] == peak(None)
    assert found[1] == pytest.approx(peak(aligned), rel=0.05)  # the first block stands for the aligned one
    assert found[1] > found[0]


def test_a_teacher_is_whole_on_every_rank_in_the_numbers_of_training() -> None:
    groups = groups_of(DIT.build, OptimizerConfig())
    numbers = sum(parameter.numel() for parameter in DIT.build().parameters())
    for engine, size in ((FP32, 4), (EngineConfig(), 2)):
        assert teacher_bytes(groups, engine) == {"network that is distilled": size * numbers}
        memory = MemoryOfRun(engine, groups, 1, 1, [], teaches=True)
        assert memory.objective(World(0, 4, 0, CPU)) == teacher_bytes(groups, engine)


@pytest.mark.parametrize("name", ["jvp", "distillation", "learned weighting"])
def test_a_step_in_bf16_keeps_the_objective_s_own_parameters_in_fp32(name: str) -> None:
    bf16 = EngineConfig()
    make = lambda: made(name, 2, bf16)  # noqa: E731
    found = live_bytes(make, dtype=torch.bfloat16, device=CPU, fake=False)
    assert 0 < max(found) < max(counted(name, 2, fake=False))
