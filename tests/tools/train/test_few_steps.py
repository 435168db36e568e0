"""What a run for few steps is refused with."""

from __future__ import annotations

import pytest

from core.config.loading import load
from core.errors import UserError
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
        (("engine.zero_stage=3",), "engine.zero_stage=3: expected 0, 1 or 2 with"),
        (("engine.zero_stage=auto",), "engine.zero_stage=auto: expected 0, 1 or 2 with"),
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
