"""Check the conditions of a sampling job against those that the run was trained with."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from core.config.loading import from_dict
from core.config.yaml_files import read_recorded
from core.diffusion.guidance.branches import dropped_parts
from core.diffusion.objectives.kinds import KINDS
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig, check_start, require_own_levels, settle_start
from core.diffusion.timesteps import TimestepConfig, shift_of
from core.errors import UserError, below
from core.progress import counted
from core.run.folder import CONFIG
from tools.runs.loaded_run import LatentSpace
from tools.runs.objective_kind import objective_kind

WORDS = {"label": "class", "text": "text"}


def require_trained(
    space: LatentSpace,
    sampler: SamplerConfig,
    given: Collection[str],
    negative: Collection[str] = (),
    *,
    frames: bool = False,
    maps_to_data: bool = False,
) -> list[str]:
    """Refuse conditions that the network cannot have learned; return warnings where that is not recorded.

    given: the conditions that samples have, of "label" and "text".  negative: those in place of which all
    samples have others to move away from, so that none is needed.  maps_to_data: whether the run was trained
    to give the data at once.
    UserError where guidance needs a null condition that no sample was trained with, or a condition that none
    was trained with, or where the start is one that drowns the data in the network's errors.
    """
    warnings = [warning] if (warning := check_start(sampler, make_path(space.path), space.prediction)) else []
    if sampler.solver == "renoise" and sampler.steps > 1 and not maps_to_data:
        warnings.append(
            "solver=renoise suits networks that map to samples; with one that estimates the mean of the "
            "data, as this run's, samples lack up to half of the variance"
        )
    guided, shares = sampler.guidance != 1, space.null_share
    if guided and not given:
        expected = "1, since samples have neither a class nor a prompt that could be dropped"
        raise UserError("guidance", sampler.guidance, expected)
    _require_given(sampler, [*given, *(["frames"] if frames else [])])
    compared = dropped_parts(given, sampler.guidance, sampler.guide.own_scales)
    if negative and not compared:
        named = f"negative_{'class' if 'label' in negative else 'prompt'}"
        raise UserError(f"{named} has no effect without guidance (sampler.guidance=1)")
    warnings += _without_captions(space, given)
    dropped_of = {part for dropped, _ in compared for part in dropped}
    for kind in given:
        guided = kind in dropped_of and kind not in negative
        share = shares.get(kind) if shares is not None else None
        warnings += _of_condition(
            WORDS[kind], share, sampler.guidance, dropped=kind in dropped_of, guided=guided
        )
    if len(given) > 1:
        warnings += [_untrained(space, frozenset(dropped) - set(negative)) for dropped, _ in compared]
    return [warning for warning in warnings if warning]


def _without_captions(space: LatentSpace, given: Collection[str]) -> list[str]:
    """Return a warning where a run on captions is asked for samples without text."""
    if space.text is None or "text" in given:
        return []
    never = space.null_share is not None and space.null_share.get("text") == 0
    untrained = ", which no sample of the run was (objective.label_dropout=0)" if never else ""
    return [
        f"the run was trained on captions, and samples are made without{untrained}: "
        "give prompts or prompt_file"
    ]


def _of_condition(
    word: str, share: float | None, guidance: float, *, dropped: bool, guided: bool
) -> list[str]:
    """Refuse guidance by a condition where it cannot work, or return warnings about it.

    share: of the run's samples that were trained without it; None where that is not recorded.
    dropped: whether guidance drops it.  guided: whether no other condition takes its place then.
    """
    if share == 1:
        why = f"every sample of the run was trained without {word} (objective.label_dropout=1)"
        if dropped:
            raise UserError("guidance", guidance, f"1, since {why}")
        return [f"the {word} that is asked for has no effect: {why}"]
    if guided and share == 0:
        why = f"no sample of the run was trained without {word} (objective.label_dropout=0)"
        expected = f"1, since classifier-free guidance needs what the network says without it, and {why}"
        raise UserError("guidance", guidance, expected)
    if guided and share is None:
        what = f"whether samples were trained without {word}, which guidance needs"
        return [f"sampler.guidance={guidance:g}: the run does not record {what}"]
    return []


def _require_given(sampler: SamplerConfig, given: Collection[str]) -> None:
    """Refuse a scale of a condition that samples do not have."""
    for part, scale in sampler.guide.own_scales.items():
        if part not in given:
            word = {"frames": "given frames", "label": "class", "text": "prompt"}[part]
            raise UserError(f"guide.{part}", scale, f"null, since samples have no {word}")
    if sampler.guide.classifier and "label" not in given:
        raise UserError("guide.classifier", sampler.guide.classifier, "0, since samples have no class")


def _untrained(space: LatentSpace, dropped: Collection[str]) -> str:
    """Refuse guidance away from conditions that were never dropped together, or alone; "" or a warning."""
    if not dropped:
        return ""
    words = " and ".join(WORDS[part] for part in ("label", "text") if part in dropped)
    what = f"without {words}" + " alone" * (len(dropped) == 1)
    share = space.share_without(dropped)
    if share == 0:
        named = "text_dropout, class_dropout" if len(dropped) == 1 else "label_dropout"
        expected = f"{what}: no sample of the run was trained so (objective.{named} is 0)"
        raise UserError(f"guidance needs what the network says {expected}")
    return "" if share else f"guidance: the run does not record whether samples were trained {what}"


def as_trained(
    sampler: SamplerConfig, space: LatentSpace, source: Path, shape: Sequence[int]
) -> tuple[SamplerConfig, list[str]]:
    """Return the sampler with every `auto` resolved from the run and its path, and lines that say how.

    shape: (C, T, H, W) of a sample's latents.  source: the folder of the run or export, whose config says how
    times were shifted in training.
    """
    lines, trained = [], trained_shift(source, math.prod(shape[1:]))
    sampler, chosen = as_objective(sampler, source)
    lines += chosen
    if not sampler.times and sampler.shift == 1 and sampler.shift_from == "training" and trained != 1:
        sampler = replace(sampler, shift=trained)
        lines.append(f"times are shifted by {trained:g}, as in training")
    elif not sampler.times and sampler.shift != trained:
        where = f"where the run was trained with a shift of {trained:g}"
        lines.append(f"override: sampler.shift={sampler.shift:g}, {where}")
    if space.learned_sigma and sampler.solver == "ddpm" and sampler.variance != "auto":
        where = "where the run was trained to predict the variance"
        lines.append(f"override: sampler.variance={sampler.variance}, {where}")
    if sampler.guidance_channels > shape[0]:
        expected = f"at most {shape[0]}, the channels of the latents"
        raise UserError("guidance_channels", sampler.guidance_channels, expected)
    require_own_levels(sampler, space.prediction)
    settled = settle_start(sampler, make_path(space.path), space.prediction)
    if settled != sampler:
        lines.append(f"start=auto begins at time {settled.start:g}")
    return settled, lines


def as_objective(sampler: SamplerConfig, source: Path) -> tuple[SamplerConfig, list[str]]:
    """Return the sampler with the solver that suits the run's objective, and warnings about it.

    euler, the usual one, is left to the run; other solvers are taken as they are.  UserError for steps by
    average velocities of a run that was not trained on them, and for others than one of the data where the
    run was trained to give them at once.
    """
    kind = objective_kind(source)
    suited = KINDS[kind].solver
    if sampler.solver == "mean_flow" != suited:
        raise UserError("solver", "mean_flow", f"another, for a run of objective.kind={kind}")
    if not suited or sampler.solver == suited:
        return sampler, []
    if sampler.solver == "euler":
        steps = counted(sampler.steps, "step")
        return replace(sampler, solver=suited), [f"solver={suited}, as objective.kind={kind} asks; {steps}"]
    if suited == "renoise":
        expected = f"renoise, since the run was trained by objective.kind={kind} to give the data at once"
        raise UserError("solver", sampler.solver, expected)
    return sampler, [f"override: solver={sampler.solver}, where objective.kind={kind} asks for {suited}"]


def trained_shift(source: Path, positions: int) -> float:
    """Return the shift with which a run was trained on latents of so many positions."""
    objective = read_recorded(source / CONFIG).get("objective") or {}
    times = objective.get("timesteps") if isinstance(objective, dict) else None
    recorded = times.items() if isinstance(times, dict) else ()
    known = {name: value for name, value in recorded if name in ("shift", "shift_at")}
    with below(f"{source / CONFIG}: objective.timesteps"):
        return shift_of(from_dict(TimestepConfig, known), positions)


def untrained_frames(source: Path, sampled: int, frame_lag: int = 0) -> list[str]:
    """Return a warning where clips are made without frames by a run that saw none without.

    UserError where frames shall lag behind each other and the run has only seen frames of equal noise.
    """
    recorded = read_recorded(source / CONFIG)
    objective, model = recorded.get("objective") or {}, recorded.get("model") or {}
    known = isinstance(objective, dict) and isinstance(model, dict)
    if frame_lag and known and not model.get("frame_levels"):
        raise UserError("frame_lag", frame_lag, "0, since the run's network is told one level for all frames")
    if frame_lag and known and objective.get("frame_times", "shared") not in ("independent", "monotone"):
        expected = "0 for a run trained on frames of equal noise (objective.frame_times)"
        raise UserError("frame_lag", frame_lag, expected)
    if sampled == 1 or not isinstance(objective, dict) or not isinstance(model, dict):
        return []
    if not (model.get("frame_condition") or model.get("frame_levels")) or objective.get("given_frames") != 1:
        return []
    return [
        "every clip of the run was trained with its first frames given (objective.given_frames=1), and "
        "samples are made without"
    ]


def require_text(text: str, space: LatentSpace, field: str) -> None:
    """Raise UserError, of the field, for a text where the run has learned from none."""
    if text and space.text is None:
        raise UserError(field, text, "none, since the run was trained without text")


def turns_of(classes: Collection[str], prompts: Collection[str], space: LatentSpace) -> list[int]:
    """Return labels of the classes that take turns; [-1] where there are none, or only prompts are given."""
    return [-1] if prompts and not classes else chosen_classes(classes, space)


def chosen_classes(wanted: Collection[str], space: LatentSpace) -> list[int]:
    """Return labels of the classes asked for by name or number; [] asks for all that were trained.

    [-1] is no class.  UserError for a class that the run does not know, or that had no sample.
    """
    names, untrained = space.classes, set(space.untrained_classes)
    if not wanted:
        return [number for number, name in enumerate(names) if name not in untrained] or [-1]
    labels = {str(number): number for number in range(len(names))}
    labels |= {name: number for number, name in enumerate(names)}
    for name in wanted:
        if name not in labels:
            some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise UserError(
                "classes", name, f"classes of the run: {some}" if names else "none: it has no classes"
            )
        if names[labels[name]] in untrained:
            raise UserError("classes", name, "a class that the run had samples of; it had none of this one")
    return [labels[name] for name in wanted]
