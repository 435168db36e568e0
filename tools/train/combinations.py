"""Check which objectives go with which networks and engines in a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from core.config.values import any_of
from core.diffusion.alignment.config import AlignmentConfig, block_of
from core.diffusion.objectives.config import ObjectiveConfig
from core.engine.config import EngineConfig
from core.errors import UserError, below
from models.denoisers.network import DenoiserConfig

JVP_ENGINE: Mapping[str, Sequence[object]] = {
    "zero_stage": (0, 1, 2, "auto"),
    "activation_checkpointing": ("none",),
    "sequence_parallel": (1,),
    "compile": (False, "auto"),
    "matmul": ("bf16",),
}
"""Settings of an engine with which mean_flow has its exact derivative; `auto` chooses among them.

Forward differentiation goes neither through what engines gather and free around each layer at stage 3, nor
through a pass that is computed again.
"""


def require_alignment(objective: ObjectiveConfig, model: DenoiserConfig, features: str) -> None:
    """Refuse an alignment that is not asked for, or that the network cannot have.

    features: of the config of data.
    """
    if features == "none":
        if objective.alignment != AlignmentConfig():
            expected = "cached or online, since objective.alignment is set"
            raise UserError("data.features", features, expected)
        return
    if not model.hidden_widths:
        expected = f"none, since model.kind={model.kind} shows no tokens of its blocks"
        raise UserError("data.features", features, expected)
    with below("objective.alignment"):
        block_of(objective.alignment, len(model.hidden_widths))


def require_given_last(objective: ObjectiveConfig, model: DenoiserConfig, stills: bool) -> None:
    """Refuse stills of last pictures where no last picture is ever given.  stills: of the config of data."""
    if not stills:
        return
    given = objective.given
    if not (model.frame_condition or model.frames_per_level):
        expected = "false without model.frame_condition and model.frame_levels, which take given frames"
    elif not objective.given_frames or not (given.last or given.ends):
        expected = "false, since objective.given gives no last pictures: `last` and `ends` are 0"
    else:
        return
    raise UserError("data.stills", "true", expected)


def require_few_steps(objective: ObjectiveConfig, model: DenoiserConfig, engine: EngineConfig) -> None:
    """Refuse a network or an engine with which mean_flow has no derivative."""
    if objective.kind != "mean_flow":
        return
    if not model.two_times:
        raise UserError("model.two_times", False, "true with objective.kind=mean_flow")
    if objective.mean_flow.derivative == "difference":
        if engine.precision != "fp32":
            expected = "fp32 with objective.mean_flow.derivative=difference, which bfloat16 is too coarse for"
            raise UserError("engine.precision", engine.precision, expected)
        return
    _require_of_jvp("model.attention", getattr(model, "attention", "math"), ("math",))
    for field, accepted in JVP_ENGINE.items():
        _require_of_jvp(f"engine.{field}", getattr(engine, field), accepted)


def _require_of_jvp(field: str, value: object, accepted: Sequence[object]) -> None:
    if value not in accepted:
        shown = any_of([str(choice).lower() for choice in accepted])
        expected = f"{shown} with objective.mean_flow.derivative=jvp; difference takes it"
        raise UserError(field, value, expected)


def goes_with(objective: ObjectiveConfig, engine: EngineConfig) -> bool:
    """Return whether an objective has its derivative with an engine."""
    if objective.kind != "mean_flow" or objective.mean_flow.derivative != "jvp":
        return True
    return all(getattr(engine, field) in accepted for field, accepted in JVP_ENGINE.items())


def stages_of(objective: ObjectiveConfig, engine: EngineConfig) -> tuple[int, ...]:
    """Return the ZeRO stages of the kind of engine that an objective goes with."""
    staged = [replace(engine, zero_stage=stage) for stage in engine.stages]
    return tuple(each.stage for each in staged if goes_with(objective, each))
