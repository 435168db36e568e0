"""Check what a sampling job asks of a network against what the run says it was trained with."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from core.config.yaml_files import read_recorded
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig, check_start
from core.errors import UserError
from core.run.folder import CONFIG
from tools.runs.loaded_run import LatentSpace

WORDS = {"label": "class", "text": "text"}


def require_trained(space: LatentSpace, sampler: SamplerConfig, given: Collection[str]) -> list[str]:
    """Refuse what the network cannot have learned; return warnings of what is not known.

    given: the conditions that samples have, of "label" and "text".
    UserError where guidance needs a null condition that no sample was trained with, or a condition that none
    was trained with, or where the start is one that drowns the data in the network's errors.
    """
    warnings = [warning] if (warning := check_start(sampler, make_path(space.path), space.prediction)) else []
    if sampler.solver == "renoise" and sampler.steps > 1:
        warnings.append(
            "solver=renoise suits networks that map to samples; with one that estimates the mean of the "
            "data, as all that are trained here, samples lack up to half of the variance"
        )
    guided, shares = sampler.guidance != 1, space.null_share
    if guided and not given:
        expected = "1, since samples have neither a class nor a prompt that could be dropped"
        raise UserError("guidance", sampler.guidance, expected)
    if space.text is not None and "text" not in given:
        never = shares is not None and shares.get("text") == 0
        untrained = ", which no sample of the run was (objective.label_dropout=0)" if never else ""
        warnings.append(
            f"the run was trained on captions, and samples are made without{untrained}: "
            "give prompts or prompt_file"
        )
    for kind in given:
        word, share = WORDS[kind], shares.get(kind) if shares is not None else None
        if share == 1:
            why = f"every sample of the run was trained without {word} (objective.label_dropout=1)"
            if guided:
                raise UserError("guidance", sampler.guidance, f"1, since {why}")
            warnings.append(f"the {word} that is asked for has no effect: {why}")
        elif guided and share == 0:
            why = f"no sample of the run was trained without {word} (objective.label_dropout=0)"
            expected = f"1, since classifier-free guidance needs what the network says without it, and {why}"
            raise UserError("guidance", sampler.guidance, expected)
        elif guided and share is None:
            what = f"whether samples were trained without {word}, which guidance needs"
            warnings.append(f"sampler.guidance={sampler.guidance:g}: the run does not record {what}")
    return warnings


def untrained_shift(source: Path, sampler: SamplerConfig) -> list[str]:
    """Return a warning where samples are made with another shift than the run was trained with.

    source: the folder of the run or export, whose config says that.
    """
    objective = read_recorded(source / CONFIG).get("objective", {})
    times = objective.get("timesteps", {}) if isinstance(objective, dict) else {}
    trained = times.get("shift", 1.0) if isinstance(times, dict) else 1.0
    if trained == sampler.shift or sampler.times:
        return []
    return [
        f"the run was trained with objective.timesteps.shift={trained}, and samples are made with "
        f"sampler.shift={sampler.shift:g}: sampler.shift={trained} takes the times that it saw most"
    ]


def turns_of(classes: Collection[str], prompts: Collection[str], space: LatentSpace) -> list[int]:
    """Return labels of the classes that take turns; [-1] where there are none, or only prompts are given."""
    return [-1] if prompts and not classes else chosen_classes(classes, space)


def conditions_of(turns: Collection[int], prompts: Collection[str]) -> list[str]:
    """Say which conditions samples have, of "label" and "text"."""
    return ["label"] * any(label >= 0 for label in turns) + ["text"] * bool(prompts)


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
