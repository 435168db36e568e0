"""Whole steps on a stand-in GPU: on one device, waiting for it only where that is meant.

Every wait costs the time in which the host could have queued the next work. Run: pytest
tests/integration/test_gpu_steps.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from core.averages.ema import EmaConfig
from core.batch import Batch, Condition
from core.diffusion.generating import sample
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths import kinds as paths
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.average_flow import ending
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import levels_at
from core.diffusion.timesteps import TimestepConfig
from core.distributed.agreement import StepAgreement
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.config import EngineConfig
from core.engine.engine import Engine, StepResult
from core.engine.kinds import make_engine
from core.engine.network import MAIN
from core.engine.zero import zero_engine as engine_module
from core.errors import WorkError
from core.metrics.phases import Phases
from core.metrics.rows import Metrics, MetricsConfig
from core.metrics.step_sums import StepSums
from core.optim.groups import OptimizerConfig
from core.records import read_rows
from core.train.runner import StepRunner
from core.train.single import SingleStepper
from core.train.validation import Validation, ValidationConfig
from data.latent.normalising import Normaliser
from models.denoisers.dit import DiT, DiTConfig
from models.layers import embeddings
from tests.stand_in_gpu import GPU, OnGpu, gpu, put
from tools.train.objective import LatentObjective

CPU = torch.device("cpu")
# Whether the step is applied, and how far it is clipped.
NORM = "core/engine/flat_adamw.py:gradient_norm (aten._local_scalar_dense.default)"
ONCE = {"core/diffusion/paths/chain.py:_ends_on (to cuda:0)"}  # in a process
LABELS = DiTConfig(width=32, depth=1, heads=2, num_classes=3, learned_sigma=True)
OBJECTIVES = {
    "flow": (LABELS, ObjectiveConfig()),
    "learned variance": (
        LABELS,
        ObjectiveConfig(path="ddpm_linear", prediction="noise", learned_sigma=True),
    ),
    "text and frames": (
        replace(LABELS, text_width=8, frame_condition=True, positions="rotary", qk_norm=True),
        ObjectiveConfig(
            path="ddpm_cosine",
            prediction="v",
            weighting="min_snr",
            timesteps=TimestepConfig(kind="logit_normal", shift=2.0),
        ),
    ),
}


class PlainDeepSpeed:
    """The part of DeepSpeed at stage 0 that the engine uses, which only passes calls on."""

    def initialize(self, *, model: nn.Module, model_parameters: Any, optimizer: Any, **_: Any) -> Any:
        made = optimizer(model_parameters)
        shell = SimpleNamespace(
            optimizer=made,
            backward=lambda loss: loss.backward(),
            step=lambda: made.step(),
            was_step_applied=lambda: not made.overflow,
            get_global_grad_norm=lambda: made._global_grad_norm,
        )
        return [_Callable(model, shell)]


class _Callable:
    def __init__(self, model: nn.Module, shell: SimpleNamespace) -> None:
        self.__dict__ |= {"model": model, **vars(shell)}

    def __call__(self, *args: Any) -> Any:
        return self.model(*args)


class Event:
    """A place in a queue of work, and the time at which it was made."""

    recorded: ClassVar[list[Event]] = []

    def __init__(self, enable_timing: bool) -> None:
        self.at_s = 0.0

    def record(self) -> None:
        self.at_s = time.perf_counter()
        Event.recorded.append(self)

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at_s - self.at_s)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engine_module, "load_deepspeed", lambda device: PlainDeepSpeed())
    yield
    for kept in (paths._made, embeddings.sincos_positions, embeddings.rotary_angles):
        kept.cache_clear()  # a GPU that is real may come next


def make(config: DiTConfig, device: torch.device, *, precision: Any = "fp32", **optimizer: Any) -> Engine:
    """Build an engine with the same network on either device."""
    torch.manual_seed(0)
    model = DiT(config)
    for p in model.parameters():
        nn.init.normal_(p, std=0.05)
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    world = World(0, 1, 0, device)
    settings = EngineConfig(zero_stage=0, precision=precision, gradient_clipping=0.01)
    return make_engine(put(model) if device == GPU else model, settings, OptimizerConfig(**optimizer), world)


def batches(config: DiTConfig) -> list[Batch]:
    """Return two micro-batches in host memory, as a loader gives them; one sample could not be read."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for start in (0, 3):
        text = torch.randn(3, 5, 8, generator=generator).half() if config.text_width else None
        condition = Condition(
            torch.tensor([0, 2, -1]), text, torch.tensor([5, 0, 2]) if config.text_width else None
        )
        place, weight = torch.arange(start, start + 3), torch.tensor([1.0, 1.0, float(start == 0)])
        moments = torch.randn(3, 2, 4, 3, 4, 4, generator=generator).half()
        made.append(Batch(moments, place + 7, place, weight, condition))
    return made


def objective_of(model: DiTConfig, config: ObjectiveConfig) -> LatentObjective:
    normaliser = Normaliser((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 1.0, 2.0))
    return LatentObjective(config, normaliser, frame_condition=model.frame_condition)


def steps(
    device: torch.device, case: str, count: int, **fields: Any
) -> tuple[Engine, list[StepResult], list[StepSums]]:
    """Take steps as the trainer does: update and average."""
    model, config = OBJECTIVES[case]
    engine = make(model, device, lr=1e-2, **fields)
    runner = StepRunner(SingleStepper(engine, objective_of(model, config), EmaConfig()), 10, 3, Phases())
    results, sums = [], [StepSums(device) for _ in range(count)]
    for step in range(count):
        results.append(runner.run(step, batches(model), {MAIN: 0.01}, sums[step])[MAIN])
    return engine, results, sums


@pytest.mark.parametrize(("case", "optimizer"), [*((case, "adamw") for case in OBJECTIVES), ("flow", "muon")])
def test_a_step_waits_for_the_gradient_norm_alone(case: str, optimizer: str) -> None:
    plain, expected, expected_sums = steps(CPU, case, 2, name=optimizer)
    with gpu() as waits:
        engine, results, sums = steps(GPU, case, 2, name=optimizer)
        assert [wait for wait in waits if wait not in ONCE] == [NORM] * 2
        assert all(isinstance(p, OnGpu) for p in engine.module.parameters())
        found = [one.vector(0.0).cpu() for one in sums]
    assert [r.grad_norm for r in results] == pytest.approx([r.grad_norm for r in expected], rel=1e-5)
    torch.testing.assert_close(found, [one.vector(0.0) for one in expected_sums])
    for ours, theirs in zip(engine.masters, plain.masters, strict=True):
        assert isinstance(ours, OnGpu)
        torch.testing.assert_close(ours.inner, theirs.detach(), rtol=0, atol=2e-4)


def test_several_ranks_wait_for_their_agreement_after_the_update() -> None:
    with gpu() as waits:
        world = World(0, 2, 0, GPU)
        agreement = StepAgreement(5, batches(LABELS), world)
        total = agreement.total_weight()
        assert isinstance(total, OnGpu)
        assert float(total.inner) == 5.0
        assert waits == []
        with pytest.raises(WorkError, match="others are in another one"):  # it is alone here
            agreement.require()
        assert waits == ["core/distributed/agreement.py:require (tolist)"]


def test_rows_of_several_steps_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with them what the driver knows, here one of the test's own."""
    model, config = OBJECTIVES["flow"]
    monkeypatch.setattr("core.metrics.speed_probe.SIZE", 8)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5e9)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_alloc_retries": 2})
    with gpu() as waits:
        engine, phases = make(model, GPU), Phases()
        metrics = Metrics(tmp_path, MetricsConfig(log_every=3), engine.world, phases=phases)
        runner = StepRunner(SingleStepper(engine, objective_of(model, config)), 3, 3, phases)
        (turn,) = runner.stepper.turns(0)
        for step in range(3):
            sums = StepSums(GPU)
            for batch in batches(model):
                moved = batch.to(GPU)
                sums.add(runner.loss(turn, step, moved), moved.weight)
            assert set(waits) <= ONCE
            metrics.record({"step": step, "seconds": 1.0}, sums, 0.0)
        assert "core/metrics/rows.py:flush (to cpu)" in waits
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert len(rows) == 3
    assert (rows[-1]["ranks"]["memory_gb"], rows[-1]["ranks"]["allocation_retries"]) == (5.0, 2)
    assert rows[-1]["ranks"]["straggler"] is None
    assert len(Event.recorded) > 1  # the GPU's speed was measured too


def test_validation_waits_once_for_each_set_of_weights(tmp_path: Path) -> None:
    model, config = OBJECTIVES["learned variance"]

    def measure(device: torch.device) -> dict[str, Any]:
        engine = make(model, device)
        validation = Validation(
            engine,
            objective_of(model, config),
            lambda: batches(model),
            ValidationConfig(strata=2),
            folder=tmp_path,
            seed=1,
        )
        return validation.measure([flat.detach() * 0.5 for flat in engine.masters], Phases())

    expected = measure(CPU)
    with gpu() as waits:
        found = measure(GPU)
    assert [wait for wait in waits if wait.startswith("core/train/validation")] == [
        "core/train/validation.py:measure (tolist)"
    ]
    assert {wait for wait in waits if "step_sums" not in wait} - ONCE == {
        "core/train/validation.py:measure (tolist)"
    }
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "solver", [name for name, kind in KINDS.items() if not kind.is_adaptive and not kind.tells_ends]
)
def test_sampling_waits_at_its_end_alone(solver: SolverName) -> None:
    eta = 0.5 if "eta" in KINDS[solver].takes else 0.0
    config = SamplerConfig(solver=solver, steps=3, guidance=2.0, start=0.95, eta=eta)

    def draw(device: torch.device) -> Tensor:
        model = make(LABELS, device).module.eval()
        ids = torch.arange(2).to(device, non_blocking=True)
        condition = Condition(label=torch.tensor([0, 2]).to(device, non_blocking=True))
        draws, path = Draws(0, 0, ids, torch.zeros_like(ids)), make_path("ddpm_linear")
        return sample(model, (2, 4, 1, 4, 4), condition, config, path, "noise", draws, learned_sigma=True)

    expected = draw(CPU)
    with gpu() as waits:
        found = draw(GPU)
        assert waits == ["core/diffusion/finite.py:naming (tolist)"]
    assert isinstance(found, OnGpu)
    torch.testing.assert_close(found.inner, expected, rtol=1e-3, atol=1e-3)


def test_a_network_is_told_where_a_step_ends_without_a_wait() -> None:
    here, there = levels_at(make_path("rectified_flow"), [0.9, 0.4])

    def told(device: torch.device) -> Any:
        x = torch.zeros(2, 1, 1, 1, 1, device=device)
        return ending(here, there, x).time_input

    with gpu() as waits:
        found = told(GPU)
        assert waits == []
    assert torch.equal(found.inner, told(CPU))
    assert told(CPU).tolist() == [[900.0, 400.0]] * 2
