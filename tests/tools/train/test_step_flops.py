"""The arithmetic of a step of every kind of objective, by the closed form and by torch's counter."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from core.config.loading import load
from core.diffusion.objectives.kinds import KINDS
from core.records import read_rows
from models.denoisers.network import forward_macs
from models.layers.embeddings import TimeEmbedding
from tests.integration.tiny_run import MODEL, STEP, make_autoencoder, make_latents
from tests.tools.train.test_step_memory import SHAPE, STEPS, made
from tools.plan.figures import step_flops
from tools.plan.step_samples import Bucket, Workload
from tools.train import job as train
from tools.train.config import Config

SAMPLES = 2
PASSES = {"jvp": 5, "difference": 7, "consistency": 4, "distillation": 6}


def test_every_kind_of_objective_is_counted() -> None:
    assert {objective.kind for _, objective in STEPS.values()} == set(KINDS)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_computes_what_plan_and_metrics_say(name: str) -> None:
    """But for gradients of the inputs, which the closed form has and no training computes."""
    model, objective = STEPS[name]
    grid = SHAPE[1:]
    macs, expected = forward_macs(model, grid), PASSES.get(name, 3)
    assert objective.passes == expected
    of_inputs = model.tokens(grid) * model.width * model.input_channels * 4
    levels = grid[0] if model.frame_levels else 1
    of_inputs += levels * TimeEmbedding.FREQUENCIES * model.width * (1 + model.two_times)
    own = (
        2 * 2 * 128 if objective.weighting == "learned" else 0
    )  # its product, and the gradient of its weight
    _, loss = made(name, SAMPLES)
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    assert counter.get_total_flops() == 2 * SAMPLES * (expected * macs - of_inputs) + SAMPLES * own
    bucket = Bucket("bucket", SHAPE, 100, model.tokens(grid), SAMPLES, 1.0)
    planned = step_flops(model, Workload([bucket], 1, 1, 0, objective=objective))
    assert planned == 2 * SAMPLES * expected * macs


@pytest.mark.parametrize(
    "fields",
    [
        ("objective.kind=mean_flow", "model.two_times=true"),
        pytest.param(("objective.kind=consistency",), marks=pytest.mark.full),
        pytest.param((), marks=pytest.mark.full),
    ],
)
def test_rows_of_a_run_have_what_its_steps_compute(tmp_path: Path, fields: tuple[str, ...]) -> None:
    """Two more steps of a run compute so much more, but for the gradients of inputs, which are not needed."""
    make_autoencoder(tmp_path / "autoencoder")
    cache = make_latents(tmp_path / "cache", tmp_path / "autoencoder")
    computed, said = list[int](), list[float]()
    for steps in (2, 4):
        run = tmp_path / f"{steps}-steps"
        settings = [f"source={cache}", f"output={run}", f"trainer.steps={steps}", *MODEL, *STEP, *fields]
        settings += ["metrics.log_every=1", "engine.micro_batch=4", "model.attention=math"]
        with FlopCounterMode(display=False) as counter:
            train.run(load(Config, overrides=settings))
        computed.append(counter.get_total_flops())
        said.append(
            sum(1e12 * row["tflops_per_s"] * row["seconds"] for row in read_rows(run / "metrics.jsonl"))
        )
    more, told = computed[1] - computed[0], said[1] - said[0]
    assert 0.96 * told < more < told
