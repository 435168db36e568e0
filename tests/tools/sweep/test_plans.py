"""Which runs a sweep plans: steps from exact FLOPs, rules, names, and what is refused."""

from __future__ import annotations

import pytest

from core.config.loading import load
from core.errors import UserError
from launch.sweep import job
from models.denoisers.network import count_parameters, train_flops
from tools.plan.config import PlanConfig
from tools.sweep.config import Config
from tools.sweep.resolving import Resolved, SweepRun, base_of, resolve
from tools.sweep.table import lines_of

MODEL = ("model.input_channels=4", "model.heads=2", "model.num_classes=10", "data.group_size=32")
DATA = ("plan.samples=100000", "plan.shapes=[[4,1,8,8]]", "output=out")
ISOFLOP = ("sweep.budgets=[1e11,2e10]", "sweep.sizes=[width=16 depth=2,width=32 depth=2]")

HUGE = ("sweep.budgets=[1e20]", "sweep.sizes=[width=40000 depth=2]", "model.attention=sdpa")


def config_of(*words: str) -> Config:
    return load(Config, (), [*MODEL, *DATA, *words])


def resolved(*words: str) -> Resolved:
    config = config_of(*words)
    return resolve(base_of(config), config.sweep, config.rules, config.plan, config.output)


def runs_of(*words: str) -> list[SweepRun]:
    return resolved(*words).runs


def test_steps_follow_from_exact_flops_and_all_else_is_shared() -> None:
    runs = runs_of(*ISOFLOP, "sweep.held_out=[4e11 width=32 depth=2]")
    names = [f"{budget}-width{width}-depth2" for budget in ("2e+10", "1e+11") for width in (16, 32)]
    assert [run.name for run in runs] == [*names, "4e+11-width32-depth2"]
    assert [run.planned.held_out for run in runs] == [False] * 4 + [True]
    for run in runs:
        of_step = 32 * train_flops(run.config.model, (1, 8, 8))
        assert run.config.trainer.steps == round(run.budget / of_step)
        assert run.flops == run.config.trainer.steps * of_step
        assert run.samples == 32 * run.config.trainer.steps
        assert run.parameters == count_parameters(run.config.model)
        assert run.config.validation.every == run.config.trainer.steps
        assert run.config.output == f"out/runs/{run.name}"
    first = runs[0].config
    assert {(run.config.seed, run.config.data, run.config.validation_source) for run in runs} == {
        (first.seed, first.data, first.validation_source)
    }


def test_a_budget_added_later_adds_only_its_runs() -> None:
    before = runs_of(*ISOFLOP)
    after = {run.name: run for run in runs_of(*ISOFLOP, "sweep.budgets=[1e11,2e10,5e10]")}
    assert len(after) == 6
    assert {run.name: run for run in before}.items() <= after.items()


def test_batch_learning_rate_and_warmup_follow_their_rules() -> None:
    rules = ("rules.batch_power=0.5", "rules.batch_budget=2e10", "rules.lr_size_power=-0.5")
    more = ("rules.lr_batch_power=0.5", "rules.warmup_share=0.1", "optimizer.lr=1e-3", "model.width=16")
    small, _, large, _ = runs_of(*ISOFLOP, *rules, *more, "model.depth=2")
    assert small.config.data.group_size == 32
    assert large.config.data.group_size == 72  # 32 * sqrt(5) to a multiple of 8
    assert small.config.optimizer.lr == 1e-3
    assert large.config.optimizer.lr == pytest.approx(1e-3 * (72 / 32) ** 0.5, rel=1e-5)
    assert small.config.optimizer.warmup_steps == round(0.1 * small.config.trainer.steps)


def test_the_learning_rate_falls_with_the_size() -> None:
    narrow, wide = runs_of(
        "sweep.budgets=[1e11]",
        "sweep.sizes=[width=16,width=32]",
        "rules.lr_size_power=-0.5",
        "model.width=16",
    )
    assert narrow.config.optimizer.lr == 1e-4
    ratio = (wide.parameters / narrow.parameters) ** -0.5
    assert wide.config.optimizer.lr == pytest.approx(1e-4 * ratio, rel=1e-5)


def test_runs_of_few_steps_or_many_epochs_are_left_out() -> None:
    whole = runs_of(*ISOFLOP)
    fewer = runs_of(*ISOFLOP, f"sweep.least_steps={whole[1].config.trainer.steps + 1}")
    assert whole[1].name not in {run.name for run in fewer}
    once = runs_of(*ISOFLOP, "sweep.most_epochs=0.5")
    assert [run for run in whole if run.samples <= 50_000] == once
    with pytest.raises(UserError, match="so that a run is left to fit: 4 have too few steps"):
        runs_of(*ISOFLOP, "sweep.least_steps=1000000", "sweep.held_out=[4e11 width=32 depth=2]")


def test_runs_that_are_left_out_are_named() -> None:
    whole = runs_of(*ISOFLOP)
    sweep = resolved(
        *ISOFLOP, f"sweep.least_steps={whole[1].config.trainer.steps + 1}", "sweep.most_epochs=0.5"
    )
    left = {run.name for run in whole} - {run.name for run in sweep.runs}
    assert left == {*sweep.short, *sweep.repeating}
    assert sweep.short
    assert sweep.repeating
    said = "\n".join(lines_of(sweep, PlanConfig(), {}))
    for names, field in ((sweep.short, "sweep.least_steps"), (sweep.repeating, "sweep.most_epochs")):
        assert f"than {field}: {', '.join(names)}" in said


def test_a_grid_combines_values_of_any_fields() -> None:
    runs = runs_of(
        "sweep.kind=grid",
        "sweep.over=[optimizer.lr=1e-3 2e-3,model.width+model.depth=16+2 32+4]",
        "sweep.budget=1e11",
    )
    assert [run.name for run in runs] == [
        f"lr{lr}-width{width}-depth{depth}" for lr in ("1e-3", "2e-3") for width, depth in ((16, 2), (32, 4))
    ]
    assert [(run.config.optimizer.lr, run.config.model.width) for run in runs] == [  # type: ignore[attr-defined]
        (lr, width) for lr in (1e-3, 2e-3) for width in (16, 32)
    ]
    assert max(run.flops for run in runs) == pytest.approx(1e11, rel=0.01)
    steps = runs_of("sweep.kind=grid", "sweep.over=[seed=0 1 2]", "trainer.steps=50")
    assert [run.config.trainer.steps for run in steps] == [50] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"^budgets=\[\]: expected at least one"),
        (
            (*ISOFLOP, "sweep.budgets=[1e6]"),
            r"budgets=1e\+06: expected at least .*, the FLOPs of one step",
        ),
        ((*ISOFLOP, "sweep.sizes=[width=16,width=16]"), "width16: expected each run once"),
        ((*ISOFLOP, "sweep.sizes=[preset=DiT-S/2]"), "preset=DiT-S/2: expected the fields of that shape"),
        ((*ISOFLOP, "sweep.sizes=[widht=16]"), r"model\.widht: no such field; the nearest is model\.width"),
        ((*ISOFLOP, "sweep.sizes=[big]"), "sizes=big: expected field=value"),
        ((*ISOFLOP, "sweep.held_out=[width=16]"), "held_out=width=16: expected a budget in FLOPs"),
        ((*ISOFLOP, "sweep.held_out=[2e10 width=16 depth=2]"), "planned twice"),
        ((*HUGE, "plan.device=H100"), "1e.20-width40000-depth2 takes .* GB of each H100"),
        (("sweep.kind=grid",), r"over=\[\]: expected at least one field"),
        (("sweep.kind=grid", "sweep.over=[seed=1 1]"), "seed1: expected each run once"),
        (("sweep.kind=grid", "sweep.over=[seed]"), "over=seed: expected field=value value"),
        (("sweep.kind=grid", "sweep.over=[seed=1,seed=2]"), "each field once"),
        (("sweep.kind=grid", "sweep.over=[a+b=1 2]"), r"over=1: expected 2 values joined by \+"),
        ((*ISOFLOP, "fit.loss=0.9"), r"fit\.loss=0\.9: expected raw or 0\.9999"),
        ((*ISOFLOP, "initial=run"), "initial=run: expected ''"),
        ((*ISOFLOP, "rules.batch_power=0.5"), r"rules\.batch_budget=0\.0: expected above 0"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        runs_of(*words)
    assert "\n" not in str(caught.value)


def test_the_plan_shows_runs_cost_and_repeats() -> None:
    device = ("plan.device=H100", "plan.mfu=0.4", "plan.price=2")
    lines = job.plan(config_of(*ISOFLOP, *device))
    assert lines[0].split()[:4] == ["run", "parameters", "samples", "epochs"]
    assert len([line for line in lines if line.endswith("missing")]) == 4
    assert any(
        "one after another" in line and "price" in line and "40% of the device's peak" in line
        for line in lines
    )
    assert any(line.startswith("warning: 1 run with more than one epoch") for line in lines)
    unknown = job.plan(config_of(*ISOFLOP))
    assert any("how long is not known" in line for line in unknown)
