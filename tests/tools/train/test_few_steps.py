"""What a run for few steps is refused with."""

from __future__ import annotations

import pytest

from core.config.loading import load
from core.diffusion.objectives.config import ObjectiveConfig
from core.errors import UserError
from tools.plan.memory import POLICIES, policies
from tools.train.combinations import stages_of
from tools.train.config import Config

COMMON = ("source=cache", "output=run")
MEAN_FLOW = (
    "objective.kind=mean_flow",
    "model.two_times=true",
    "model.attention=math",
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("model.two_times=false",), "model.two_times=False: expected true with objective.kind=mean_flow"),
        (
            ("model.attention=sdpa",),
            "model.attention=sdpa: expected math with objective",
        ),
        (("engine.zero_stage=3",), "engine.zero_stage=3: expected 0, 1, 2 or auto with"),
        (
            ("engine.activation_checkpointing=full",),
            "engine.activation_checkpointing=full: expected none with",
        ),
        (("engine.compile=true",), "engine.compile=True: expected false or auto with"),
        (("objective.mean_flow.derivative=difference",), "engine.precision=bf16: expected fp32 with"),
        (("model.frame_levels=true",), "two_times=True: expected false with frame_levels"),
        (("objective.kind=distillation",), "initial='': expected the run that is distilled"),
    ],
)
def test_what_has_no_derivative_or_teacher_is_refused(fields: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(Config, overrides=[*COMMON, *MEAN_FLOW, *fields])


def test_auto_is_a_stage_at_which_there_is_a_derivative() -> None:
    for fields, stages in (
        (("engine.zero_stage=auto",), (0, 1, 2)),
        (("engine.zero_stage=auto", "engine.kind=fsdp2"), (2,)),
    ):
        config = load(Config, overrides=[*COMMON, *MEAN_FLOW, *fields])
        assert stages_of(config.objective, config.engine) == stages
    difference = ("objective.mean_flow.derivative=difference", "engine.precision=fp32")
    config = load(Config, overrides=[*COMMON, *MEAN_FLOW, *difference, "engine.zero_stage=auto"])
    assert stages_of(config.objective, config.engine) == (0, 1, 2, 3)


def test_a_plan_counts_nothing_with_which_there_is_no_derivative() -> None:
    config = load(Config, overrides=[*COMMON, *MEAN_FLOW])
    assert policies(config.engine, config.objective) == ["none"]
    assert policies(config.engine, ObjectiveConfig()) == list(POLICIES)


def test_a_difference_takes_everything_in_fp32() -> None:
    fields = ("objective.mean_flow.derivative=difference", "engine.precision=fp32", "engine.zero_stage=3")
    other = ("model.attention=auto", "engine.activation_checkpointing=full", "engine.sequence_parallel=2")
    assert load(Config, overrides=[*COMMON, *MEAN_FLOW, *fields, *other]).model.two_times


def test_distillation_means_what_its_teacher_means() -> None:
    fields = [*COMMON, "objective.kind=distillation", "initial=teacher"]
    assert load(Config, overrides=fields).latents.normalise == "initial"
    with pytest.raises(UserError, match=r"initial_accept=\['path'\]: expected \[\] with"):
        load(Config, overrides=[*fields, "initial_accept=[path]"])
    with pytest.raises(UserError, match=r"latents.normalise=measured: expected initial with"):
        load(Config, overrides=[*fields, "latents.normalise=measured"])
