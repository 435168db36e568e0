"""Find the engine settings that fit into a GPU, and the memory that each takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from core.diffusion.objectives.config import ObjectiveConfig
from core.engine.config import EngineConfig, Policy
from core.errors import UserError
from core.memory.fitting import Fit, fit, least_stage
from core.memory.free import USABLE
from core.memory.micro_batch import Measured, divisors
from core.memory.state import ParameterGroup
from models.denoisers.network import DenoiserConfig
from tools.plan.step_samples import Workload
from tools.runs.memory.run_memory import own_bytes, state_of, teacher_bytes
from tools.train import denoiser_pass
from tools.train.combinations import goes_with, stages_of

POLICIES: tuple[Policy, ...] = ("none", "selective", "every_k", "full")
"""Of activation checkpointing, in the order of what they compute again."""


class Gpus(NamedTuple):
    """The GPUs of a run: their number, how many a node has, and the bytes of each, 0 for no limit."""

    ranks: int
    on_node: int
    memory: int


class MicroBatch(NamedTuple):
    """So many samples of a bucket at once, and the bytes of a rank that training on them takes in all."""

    samples: int
    bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Setting(Fit):
    """A way to run, and its bytes on a rank.

    kind: of engine.  shard_ranks: of engine.  copy: ranks that share one copy of the state under fsdp2, 0 of
    other kinds.  policy: of activation checkpointing.  degree: ranks that share the tokens of a sample.
    sizes: of each bucket all that it takes with each micro-batch that divides a rank's share, and whether
    that fits.
    """

    kind: str
    shard_ranks: int
    copy: int
    zero_stage: int
    policy: str
    degree: int
    sizes: Sequence[Sequence[MicroBatch]]


def activations(
    model: DenoiserConfig, engine: EngineConfig, workload: Workload, policy: str
) -> list[Measured]:
    """Count the activations of samples of each bucket with a policy, over shapes alone."""
    chosen = replace(engine, activation_checkpointing=policy)  # type: ignore[arg-type]
    return [
        denoiser_pass.activations(
            model,
            chosen,
            bucket.shape,
            workload.text_tokens,
            aligned=aligned,
            learned=workload.objective,
        )
        for bucket, aligned in itertools.zip_longest(workload.buckets, workload.aligned)
    ]


def shared(measured: Sequence[Measured], degree: int) -> list[Measured]:
    """Return the activations where so many ranks hold a share of the tokens of a sample each."""
    return [Measured([x // degree for x in each.one], [x // degree for x in each.two]) for each in measured]


def degrees(model: DenoiserConfig, workload: Workload, gpus: Gpus) -> list[int]:
    """Return how many ranks of a node can share the tokens of a sample: powers of 2 that fit the groups."""
    found = [1]
    while (degree := 2 * found[-1]) <= min(gpus.ranks, gpus.on_node):
        if gpus.ranks % degree or model.attention_heads(degree) is None:
            break
        found.append(degree)
    groups = [bucket.group for bucket in workload.buckets]
    return [d for d in found if all(group % (gpus.ranks // d) == 0 for group in groups)]


def policies(engine: EngineConfig, objective: ObjectiveConfig) -> list[Policy]:
    """Return those that the objective goes with."""
    return [each for each in POLICIES if goes_with(objective, replace(engine, activation_checkpointing=each))]


def possible(
    groups: Sequence[ParameterGroup],
    engine: EngineConfig,
    workload: Workload,
    policy: Policy,
    measured: Sequence[Measured],
    gpus: Gpus,
    *,
    degree: int,
    averages: int,
) -> list[Setting]:
    """Return every stage that the objective goes with, and the micro-batches that `engine` asks for.

    Under fsdp2 with the ranks of a node to share the state, or of as few nodes as any stage fits with.
    measured: activations of each bucket, of whole samples.  gpus: USABLE of their memory is planned with.
    """
    ranks, on_node, memory = gpus
    usable = int(USABLE * memory) if memory else None
    shares = [bucket.group * degree // ranks for bucket in workload.buckets]
    asked = replace(engine, activation_checkpointing=policy, sequence_parallel=degree)
    stages = stages_of(workload.objective, asked)

    def setting(sharing: EngineConfig, stage: int) -> Setting:
        staged = replace(sharing, zero_stage=stage)
        copy = staged.copy_ranks(ranks, on_node) if staged.kind == "fsdp2" else 0
        on_rank = state_of(groups, staged, ranks, on_node, averages=averages)
        of_rank = shared(measured, degree)
        more = own_bytes(workload.own, staged, ranks, on_node)
        more |= teacher_bytes(groups, staged) if workload.objective.kind == "distillation" else {}
        takes = fit(on_rank, usable, shares, of_rank, micro_batch=engine.micro_batch, more=more)
        sizes = [
            _micro_batches(takes, share, each, usable) for share, each in zip(shares, of_rank, strict=True)
        ]
        return Setting(
            **vars(takes),
            kind=engine.kind,
            shard_ranks=sharing.shard_ranks,
            copy=copy,
            zero_stage=stage,
            policy=policy,
            degree=degree,
            sizes=sizes,
        )

    for sharing in engine.by_copies(ranks, on_node):
        found = [setting(sharing, stage) for stage in stages]
        if any(each.fits for each in found):
            break
    return found


def of_another_kind(engine: EngineConfig) -> EngineConfig | None:
    """Return the other kind of engine with the same settings; None where it cannot have them."""
    usual = EngineConfig()
    kind: Literal["deepspeed", "fsdp2"] = "fsdp2" if engine.kind == "deepspeed" else "deepspeed"
    others: dict[str, Any] = {"shard_ranks": usual.shard_ranks, "reduce": usual.reduce}
    try:
        return replace(engine, kind=kind, zero_stage="auto", **others)
    except UserError:
        return None


def _micro_batches(takes: Fit, share: int, measured: Measured, usable: int | None) -> list[MicroBatch]:
    """Return what each number of samples that divides a rank's share takes, the smallest first."""
    state, found = sum(takes.parts.values()), []
    for samples in reversed(divisors(share)):
        size = state + max(measured.bytes(samples), takes.update)
        found.append(MicroBatch(samples, size, usable is None or size <= usable))
    return found


def configured(found: Sequence[Setting], engine: EngineConfig, ranks: int) -> Setting:
    """Return the setting that the configuration asks for, its stage settled where that is `auto`."""
    asked = (engine.activation_checkpointing, engine.sequence_parallel)
    stages = {each.zero_stage: each for each in found if (each.policy, each.degree) == asked}
    return stages[least_stage(ranks, stages) if engine.zero_stage == "auto" else engine.zero_stage]


def recommend(found: Sequence[Setting], degree: int) -> Setting | None:
    """Return the least recomputation that fits, then the least sharding; None where nothing fits.

    Recomputing costs up to a third of the arithmetic, and a higher stage some traffic. Tokens are shared as
    configured, by `degree` ranks; by more, as few as can be, only where nothing fits otherwise.
    """
    order: dict[str, int] = {policy: number for number, policy in enumerate(POLICIES)}
    fitting = [setting for setting in found if setting.fits]

    def rank(each: Setting) -> tuple[bool, int, int, int]:
        more = each.degree if each.degree != degree else 0
        return each.degree < degree, more, order[each.policy], each.zero_stage

    return min(fitting, key=rank, default=None)


def smallest(found: Sequence[Setting]) -> Setting:
    """Return the setting that takes least, to say how much is missing."""
    return min(found, key=lambda each: each.bytes)


def as_fields(setting: Setting) -> dict[str, Any]:
    """Return the fields of the section `engine` that stand for a setting."""
    return {
        "engine": {
            "zero_stage": setting.zero_stage,
            **({"shard_ranks": setting.shard_ranks} if setting.shard_ranks else {}),
            "activation_checkpointing": setting.policy,
            "sequence_parallel": setting.degree,
            "micro_batch": "auto",
        }
    }


def as_figures(setting: Setting) -> dict[str, Any]:
    """Return a setting as plain values for JSON."""
    return {
        "engine": setting.kind,
        "shard_ranks": setting.shard_ranks,
        "ranks_of_a_copy": setting.copy,
        "zero_stage": setting.zero_stage,
        "activation_checkpointing": setting.policy,
        "sequence_parallel": setting.degree,
        "parts": dict(setting.parts),
        "activations": setting.activations,
        "update": setting.update,
        "bytes": setting.bytes,
        "micro_batches": list(setting.micro_batches),
        "by_micro_batch": [[each._asdict() for each in bucket] for bucket in setting.sizes],
        "fits": setting.fits,
    }
