"""A run can be sampled with the conditions that it was trained with, and no others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.config.yaml_files import as_yaml, read_yaml
from core.diffusion.paths.config import path_record
from core.diffusion.sampling import SamplerConfig
from core.diffusion.thresholds import ThresholdConfig
from core.errors import UserError
from core.run.folder import LATENTS
from tests.tools.made_runs import make_run
from tools.runs.loaded_run import LatentSpace
from tools.runs.objective_kind import maps_to_data
from tools.sample import job as sample
from tools.sample.conditions import as_trained, chosen_classes, require_trained, untrained_frames

GUIDED, PLAIN = SamplerConfig(steps=2, guidance=3), SamplerConfig(steps=2)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


def space(run: Path, **fields: Any) -> LatentSpace:
    return replace(LatentSpace.read(run), **fields)


def shares(label: float | None = 0.1, text: float | None = 0.1) -> dict[str, float | None]:
    return {"label": label, "text": text}


@pytest.mark.parametrize("kind", ["label", "text"])
@pytest.mark.parametrize(("share", "why"), [(0.0, "no sample of the run"), (1.0, "every sample of the run")])
def test_guidance_needs_a_null_condition_that_was_trained(
    run: Path, kind: str, share: float, why: str
) -> None:
    found = space(run, null_share=shares(**{kind: share}))
    with pytest.raises(UserError, match=f"^guidance=3.*: expected 1, since .*{why}"):
        require_trained(found, GUIDED, [kind])
    other = {"label": "text", "text": "label"}[kind]
    assert require_trained(found, GUIDED, [other]) == []


def test_a_condition_that_was_always_dropped_is_warned_of(run: Path) -> None:
    (warning,) = require_trained(space(run, null_share=shares(label=1.0)), PLAIN, ["label"])
    assert "the class that is asked for has no effect" in warning
    assert require_trained(space(run, null_share=shares(label=0.0)), PLAIN, ["label"]) == []


def test_renoising_is_warned_of_where_it_takes_more_than_one_step(run: Path) -> None:
    once, twice = SamplerConfig(solver="renoise", steps=1), SamplerConfig(solver="renoise", steps=2)
    (warning,) = require_trained(space(run), twice, ["label"])
    assert "samples lack up to half of the variance" in warning
    assert not [line for line in require_trained(space(run), once, ["label"]) if "renoise" in line]


@pytest.mark.parametrize(
    ("kind", "solver"), [("mean_flow", "mean_flow"), ("consistency", "renoise"), ("distillation", "renoise")]
)
def test_the_solver_is_that_of_the_objective(run: Path, kind: str, solver: str) -> None:
    shape, asked = (4, 1, 2, 2), SamplerConfig(steps=2)
    trained_with(run, "objective", kind=kind)
    taken, lines = as_trained(asked, space(run), run, shape)
    assert taken == replace(asked, solver=solver)  # type: ignore[arg-type]
    assert lines == [f"solver={solver}, as objective.kind={kind} asks; 2 steps"]
    assert as_trained(taken, space(run), run, shape) == (taken, [])
    maps = maps_to_data(run)
    assert maps == (solver == "renoise")
    assert not [
        line for line in require_trained(space(run), taken, ["label"], maps_to_data=maps) if "lack" in line
    ]
    other = replace(asked, solver="heun")
    if maps:
        with pytest.raises(UserError, match="solver=heun: expected renoise, since the run was trained by"):
            as_trained(other, space(run), run, shape)
    else:
        assert as_trained(other, space(run), run, shape)[1] == [
            "override: solver=heun, where objective.kind=mean_flow asks for mean_flow"
        ]


def test_no_more_channels_are_guided_than_there_are(run: Path) -> None:
    with pytest.raises(UserError, match="guidance_channels=5: expected at most 4, the channels of"):
        as_trained(SamplerConfig(guidance_channels=5), space(run), run, (4, 1, 2, 2))


def test_average_velocities_need_a_run_that_was_trained_on_them(run: Path) -> None:
    with pytest.raises(UserError, match="solver=mean_flow: expected another, for a run of"):
        as_trained(SamplerConfig(solver="mean_flow", steps=2), space(run), run, (4, 1, 2, 2))
    trained_with(run, "objective", kind="dreaming")
    with pytest.raises(UserError, match="dreaming: expected denoising, mean_flow"):
        as_trained(PLAIN, space(run), run, (4, 1, 2, 2))


def test_another_variance_than_the_trained_one_is_named(run: Path) -> None:
    learned = replace(space(run), path=replace(space(run).path, name="ddpm_linear"), learned_sigma=True)
    for variance, lines in (
        ("auto", []),
        ("small", ["override: sampler.variance=small, where the run was trained to predict the variance"]),
    ):
        sampler = SamplerConfig(solver="ddpm", variance=variance, threshold=ThresholdConfig(kind="static"))  # type: ignore[arg-type]
        assert as_trained(sampler, learned, run, (4, 1, 2, 2))[1] == lines


def test_times_are_shifted_as_in_training_unless_another_shift_is_given(run: Path) -> None:
    shape = (4, 1, 2, 2)
    assert as_trained(PLAIN, space(run), run, shape) == (PLAIN, [])
    trained_with(run, "objective", "timesteps", shift=3.0)
    taken, lines = as_trained(PLAIN, space(run), run, shape)
    assert (taken.shift, lines) == (3.0, ["times are shifted by 3, as in training"])
    assert as_trained(replace(PLAIN, shift=3.0), space(run), run, shape)[1] == []
    for own in (replace(PLAIN, shift=2.0), replace(PLAIN, shift_from="sampler")):
        taken, (line,) = as_trained(own, space(run), run, shape)
        assert taken == own
        assert line.startswith(f"override: sampler.shift={own.shift:g}, where the run was trained with")
    given = SamplerConfig(steps=1, times=(1.0,))
    assert as_trained(given, space(run), run, shape) == (given, [])


def test_a_shift_by_shape_is_that_of_the_samples(run: Path) -> None:
    trained_with(run, "objective", "timesteps", shift=2.0, shift_at=4)
    assert as_trained(PLAIN, space(run), run, (4, 1, 2, 2))[0].shift == 2.0
    assert as_trained(PLAIN, space(run), run, (4, 1, 4, 4))[0].shift == 4.0


def test_samples_are_made_with_the_shift_of_the_run(run: Path) -> None:
    def pixels(name: str, **fields: Any) -> tuple[bytes, dict[str, Any]]:
        output, sampler = run.parent / name, SamplerConfig(steps=3, **fields)
        sample.run(sample.Config(source=str(run), output=str(output), count=2, sampler=sampler))
        return (output / "images.png").read_bytes(), json.loads((output / "samples.json").read_text())

    before, _ = pixels("before")
    trained_with(run, "objective", "timesteps", shift=3.0)
    now, record = pixels("now")
    assert record["sampler"]["shift"] == 3.0
    assert now != before
    assert now == pixels("named", shift=3.0)[0]
    assert before == pixels("unshifted", shift_from="sampler")[0]
    plan = sample.plan(sample.Config(source=str(run), output="x", sampler=PLAIN))
    assert "times are shifted by 3, as in training" in plan


def test_a_start_left_to_the_path_is_told(run: Path) -> None:
    cosine = space(run, path=path_record("ddpm_cosine"), prediction="noise")
    sampler = SamplerConfig(steps=50, start="auto")
    taken, (line,) = as_trained(sampler, cosine, run, (4, 1, 2, 2))
    assert line == "start=auto begins at time 0.999"
    assert require_trained(cosine, taken, ["label"]) == []
    with pytest.raises(UserError, match="steps=2000: expected at most 1000 on ddpm_cosine"):
        as_trained(SamplerConfig(steps=2000, start="auto"), cosine, run, (4, 1, 2, 2))
    assert as_trained(sampler, space(run), run, (4, 1, 2, 2))[0].start == 1.0


def test_clips_without_the_frames_that_all_of_training_had_are_warned_of(run: Path) -> None:
    assert untrained_frames(run, 9) == []
    trained_with(run, "model", frame_condition=True)
    trained_with(run, "objective", given_frames=1.0)
    assert untrained_frames(run, 1) == []
    (warning,) = untrained_frames(run, 9)
    assert "trained with its first frames given" in warning


def trained_with(run: Path, *sections: str, **fields: Any) -> None:
    record = read_yaml(run / "config.yaml")
    section = record
    for name in sections:
        section = section.setdefault(name, {})
    section.update(fields)
    (run / "config.yaml").write_text(as_yaml(record))


def test_what_is_not_recorded_is_warned_of_where_it_matters(run: Path) -> None:
    for unknown in (None, shares(label=None)):
        (warning,) = require_trained(space(run, null_share=unknown), GUIDED, ["label"])
        assert "the run does not record whether samples were trained without class" in warning
        assert require_trained(space(run, null_share=unknown), PLAIN, ["label"]) == []


def test_guidance_without_anything_to_drop_is_refused_before_anything_is_written(run: Path) -> None:
    with pytest.raises(UserError, match=r"^guidance=3.*: expected 1, since samples have neither"):
        require_trained(space(run), GUIDED, [])
    record = json.loads((run / LATENTS).read_text())
    (run / LATENTS).write_text(json.dumps(record | {"classes": []}))
    output = run.parent / "samples"
    with pytest.raises(UserError, match=r"^sampler\.guidance=3"):
        sample.run(sample.Config(source=str(run), output=str(output), count=2, sampler=GUIDED))
    assert not output.exists()
    assert require_trained(space(run), PLAIN, []) == []


def test_classes_are_chosen_by_name_or_number(run: Path) -> None:
    pets = space(run, classes=("cat", "dog"), untrained_classes=())
    assert chosen_classes((), pets) == [0, 1]
    assert chosen_classes(("dog", "0"), pets) == [1, 0]
    assert chosen_classes(("1",), replace(pets, classes=("1", "5"))) == [0]  # a name goes before a number
    assert chosen_classes((), replace(pets, classes=())) == [-1]
    with pytest.raises(UserError, match="classes=cow: expected classes of the run: cat, dog"):
        chosen_classes(("cow",), pets)


def test_a_class_without_samples_is_refused_and_not_among_all(run: Path) -> None:
    pets = space(run, classes=("cat", "dog", "eel"), untrained_classes=("dog",))
    assert chosen_classes((), pets) == [0, 2]
    with pytest.raises(UserError, match="classes=dog: expected a class that the run had samples of"):
        chosen_classes(("eel", "dog"), pets)


def test_a_refused_job_leaves_nothing(run: Path) -> None:
    record = json.loads((run / LATENTS).read_text())
    (run / LATENTS).write_text(json.dumps(record | {"null_share": {"label": 0.0, "text": None}}))
    output = run.parent / "samples"
    config = sample.Config(source=str(run), output=str(output), count=2, sampler=GUIDED)
    for refused in (sample.plan, sample.run):
        with pytest.raises(UserError, match=r"sampler\.guidance"):
            refused(config)  # type: ignore[operator]
    assert not output.exists()


def test_a_run_with_text_that_is_sampled_without_is_warned_of(run: Path) -> None:
    text = space(run, text={"width": 8}, null_share=shares())
    (warning,) = require_trained(text, PLAIN, ["label"])
    assert warning.endswith("and samples are made without: give prompts or prompt_file")
    (warning,) = require_trained(replace(text, null_share=shares(text=0.0)), PLAIN, ["label"])
    assert "without, which no sample of the run was (objective.label_dropout=0)" in warning
    assert require_trained(text, PLAIN, ["label", "text"]) == []
