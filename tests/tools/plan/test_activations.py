"""Activations and FLOPs that a plan counts over shapes, beside what torch really holds and counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.engine.config import EngineConfig
from core.memory.counting import live_bytes
from tests.tools.plan.networks import CASES, FAST, IMAGE, NETWORKS, POLICIES, Case
from tools.plan.figures import parts_of, step_flops
from tools.plan.memory import activations
from tools.plan.step_samples import Bucket, Workload
from tools.train.denoiser_pass import denoiser_pass

SAMPLES = 4
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name in FAST else pytest.mark.full)
        for name, case in CASES.items()
    ],
)


def dtype_of(case: Case) -> torch.dtype:
    return torch.bfloat16 if case.engine.precision == "bf16" else torch.float32


def workload(case: Case) -> Workload:
    tokens = case.model.tokens(case.shape[1:])
    return Workload([Bucket("bucket", case.shape, 100, tokens, 8, 1.0)], 1, 1, case.text_tokens)


def counted(case: Case, samples: int = SAMPLES) -> int:
    policy = case.engine.activation_checkpointing
    return activations(case.model, case.engine, workload(case), policy)[0].bytes(samples)


def made(case: Case) -> tuple[nn.Module, object]:
    model, loss = denoiser_pass(case.engine, case.model, (SAMPLES, *case.shape), case.text_tokens)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype_of(case))
        parameter.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", None))
    return model, loss


@each_case
def test_activations_are_what_the_allocator_gives_out(case: Case) -> None:
    _, loss = made(case)
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as seen:
        loss().backward()  # type: ignore[operator]
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert peak > 1e6
    assert counted(case) == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("case", [case for name, case in CASES.items() if "none bf16" in name])
def test_without_checkpointing_activations_are_the_saved_tensors(case: Case) -> None:
    model, loss = made(case)
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss()  # type: ignore[operator]
    held = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in weights)
    assert counted(case) == pytest.approx(held, rel=0.1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("depth", [7, pytest.param(12, marks=pytest.mark.full)])
def test_a_few_blocks_tell_the_bytes_of_many(policy: str, depth: int) -> None:
    case = CASES[f"image {policy} bf16"]._replace(model=replace(IMAGE, depth=depth))
    make = lambda: denoiser_pass(case.engine, case.model, (1, *case.shape))  # noqa: E731
    whole = live_bytes(make, dtype=dtype_of(case), device=torch.device("cpu"), fake=True)
    assert counted(case, 1) == max(whole)


@pytest.mark.parametrize("fields", [{}, {"patch": (1, 4, 2)}, {"mlp_ratio": 2.5}, {"width": 96, "depth": 3}])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_flops_of_a_step_are_those_that_torch_counts(name: str, fields: dict[str, Any]) -> None:
    """But for the gradients of inputs and captions, which no training computes and the closed form has."""
    model, shape, tokens = NETWORKS[name]
    model = replace(model, attention="math", **fields)
    _, loss = denoiser_pass(EngineConfig(), model, (SAMPLES, *shape), tokens)
    with FlopCounterMode(display=False) as forward:
        loss()
    bucket = Bucket("bucket", shape, 100, model.tokens(shape[1:]), SAMPLES, 1.0)
    work = Workload([bucket], 1, 1, tokens)
    planned = step_flops(model, work)
    assert planned == pytest.approx(3 * forward.get_total_flops(), rel=1e-3)
    assert planned == pytest.approx(SAMPLES * sum(parts_of(model, bucket, work).values()), rel=1e-9)
    with FlopCounterMode(display=False) as both:
        loss().backward()
    assert 0.95 * planned < both.get_total_flops() <= planned
