"""The role of every field of every job when an output is continued, and that claims obey it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from core.config import loading
from core.config.fields import walk
from core.config.settings import REQUIRED, Role
from core.errors import UserError
from core.files import write_text
from core.run.changes import OUTPUT
from core.run.claim import HEADER, claim
from core.run.folder import CONFIG
from launch.jobs import JOBS, Job

OUTPUTS = {"output": "place", "overwrite": "work", "processes": "work"}
ENGINE = (
    *("kind", "zero_stage", "shard_ranks", "reduce", "reduce_dtype", "micro_batch"),
    *("sequence_parallel", "activation_checkpointing", "checkpoint_every"),
    *("compile", "kernels", "device", "timeout_s"),
)
TRAINER = {
    **dict.fromkeys(("profile_from", "profile_steps", "profile_ranks", "profile_memory"), "watch"),
    **dict.fromkeys(("watchdog_s", "save_timeout_s"), "watch"),
    **dict.fromkeys(("collect_every", "check_every", "max_skipped", "on_skipped", "max_rollbacks"), "work"),
    **dict.fromkeys(("save_every", "keep_last", "keep_every", "max_failed_saves"), "work"),
    **dict.fromkeys(("save_async", "save_spread"), "work"),
}
PREVIEW = (
    *("every", "count", "classes", "prompts", "requests", "frames", "height", "width", "fps", "batch"),
    *("sampler.solver", "sampler.steps", "sampler.guidance"),
)
EVALUATE = (
    *("every", "samples", "real", "most_real", "batch"),
    *("sampler.solver", "sampler.steps", "sampler.guidance"),
)
METRICS = ("log_every", "log_matmul", "wandb", "wandb_project", "tensorboard")


def within(section: str, names: Any, role: str = "") -> dict[str, str]:
    roles = names if isinstance(names, dict) else dict.fromkeys(names, role)
    return {f"{section}.{name}": value for name, value in roles.items()}


TRAINING = {
    **OUTPUTS,
    **dict.fromkeys(("source", "initial"), "place"),
    "data.prefetch": "work",
    "data.verify": "work",
    **within("engine", ENGINE, "work"),
    "ema.snapshot_every": "work",
    **within("trainer", TRAINER),
    **within("metrics", METRICS, "watch"),
}
# Reviewed: every field that is not listed decides the result. `encode`'s device, batch and threads do, since
# equal inputs are to give equal bytes; so does `model.attention`, since backends round differently.
ROLES: dict[str, dict[str, str]] = {
    "shard": {**OUTPUTS, "source": "place", "quarantine_budget": "work"},
    "train-autoencoder": {
        **TRAINING,
        **within("data", ("threads", "quarantine_budget"), "work"),
        "score_samples": "watch",
    },
    "encode": {
        **OUTPUTS,
        **dict.fromkeys(("source", "autoencoder", "text_encoder", "picture_encoder"), "place"),
        **within("queue", ("timeout_s", "heartbeat_s", "attempts", "losses"), "work"),
        **dict.fromkeys(("action", "seed", "decode_threads", "quarantine_budget", "require_space"), "work"),
    },
    "train": {
        **TRAINING,
        **dict.fromkeys(
            ("autoencoder", "data.also", "data.online.text_encoder", "objective.schedule.betas"), "place"
        ),
        **within("data.online", ("threads", "quarantine_budget"), "work"),
        "data.pictures.threads": "work",
        **dict.fromkeys(
            ("objective.timesteps.density", "data.pictures.encoder", "data.pictures.source"), "place"
        ),
        "initial_accept": "work",
        **within("validation", ("every", "samples", "strata", "averages"), "watch"),
        **within("preview", PREVIEW, "watch"),
        **within("evaluate", EVALUATE, "watch"),
        "validation_source": "watch",
    },
    "sweep": {
        **TRAINING,
        **dict.fromkeys(("objective.schedule.betas", "objective.timesteps.density"), "place"),
        **dict.fromkeys(("autoencoder", "data.also", "data.online.text_encoder"), "place"),
        **dict.fromkeys(("data.pictures.encoder", "data.pictures.source"), "place"),
        "data.pictures.threads": "work",
        **within("data.online", ("threads", "quarantine_budget"), "work"),
        **dict.fromkeys(("initial_accept", "action", "retry"), "work"),
        **within("validation", ("every", "samples", "strata", "averages"), "watch"),
        **within("preview", PREVIEW, "watch"),
        **within("evaluate", EVALUATE, "watch"),
        "validation_source": "watch",  # its ledger compares it, and the number of samples and strata
        **within("sweep", ("budgets", "sizes", "least_steps", "most_epochs", "held_out"), "work"),
        **within("fit", ("loss", "target"), "watch"),
        **within("queue", ("timeout_s", "heartbeat_s", "attempts", "losses"), "work"),
    },
    "sample": {
        **OUTPUTS,
        **dict.fromkeys(("source", "prompt_file", "requests", "again", "text_encoder"), "place"),
        **dict.fromkeys(("weak.source", "classifier"), "place"),
        **within("task", ("given", "given_last", "image", "mask"), "place"),
        **within("queue", ("timeout_s", "heartbeat_s", "attempts", "losses"), "work"),
        **dict.fromkeys(("batch", "device", "sequence_parallel", "compile"), "work"),
    },
    "evaluate": {
        **OUTPUTS,
        **dict.fromkeys(("source", "real", "heldout", "autoencoder"), "place"),
        **dict.fromkeys(("extractor_weights", "reference", "imported"), "place"),
        **dict.fromkeys((f"reconstruction.lpips_{name}" for name in ("network", "weights")), "place"),
        **dict.fromkeys(("batch", "device", "density.batch"), "work"),
        **within("queue", ("timeout_s", "heartbeat_s", "attempts", "losses"), "work"),
    },
    "demo": {**OUTPUTS, "source": "place", "text_encoder": "place"},
    "digits": {"output": "place", "overwrite": "work"},
}
CONTINUE_NOTHING = {"convert", "export", "inspect", "bench", "report", "compare"}  # they begin anew each time
OF_ANOTHER_JOB = {"plan"}  # its config is that of `train`
ALL = {job.name: job for job in JOBS}
each_job = pytest.mark.parametrize("name", ROLES)


def config_of(job: Job, output: Path) -> Any:
    schema = job.load().Config
    required = [
        f"{place.path}=there" for place in walk(schema) if place.default == REQUIRED and place.path != OUTPUT
    ]
    return loading.load(schema, overrides=[*required, f"output={output}"])


def fields_with(job: Job, role: str) -> list[str]:
    """Return the fields of a role, except sections and their kinds, whose other values have other fields."""
    places = [place for place in walk(job.load().Config) if not hasattr(place.kind, "__dataclass_fields__")]
    places = [place for place in places if not place.kinds]
    return [place.path for place in places if place.role == role]


def record(output: Path, config: Any, changed: list[str]) -> None:
    """Write the record of an output as if it had been begun with other values in these fields."""
    tree = loading.to_dict(config)
    for path in changed:
        *sections, name = path.split(".")
        section = tree
        for part in sections:
            section = section[part]
        section[name] = another(section[name])
    write_text(output / CONFIG, f"{HEADER}{config.job}\n{json.dumps(tree)}\n")


def another(value: Any) -> Any:
    """Return a different value of the same type, valid or not: a record is compared, not used."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return ["elsewhere"] if isinstance(value, list) else "elsewhere"


def take(output: Path, config: Any, found: str = "same", recorded: str | None = "same") -> str:
    kept = None if recorded is None else {"fingerprint": recorded}
    contents = lambda path: (kept, {"fingerprint": found})  # noqa: E731
    return claim(output, config, done="done.json", overwrite=False, contents=contents, made=lambda: "7 steps")


def refused(output: Path, config: Any, **contents: Any) -> set[str]:
    """Return the fields that a refusal names; require that it changes nothing."""
    before = (output / CONFIG).read_text()
    with pytest.raises(UserError) as caught:
        take(output, config, **contents)
    assert (output / CONFIG).read_text() == before
    assert "overwrite=true would remove 7 steps" in str(caught.value)
    return {part.partition("=")[0] for part in str(caught.value).split("; and ")}


def test_every_job_is_looked_at() -> None:
    assert {*ROLES, *CONTINUE_NOTHING, *OF_ANOTHER_JOB} == {*ALL}
    for name in CONTINUE_NOTHING:
        assert {place.role for place in walk(ALL[name].load().Config)} == {"result"}, name


@each_job
def test_every_field_has_the_role_it_was_given_by_decision(name: str) -> None:
    places = list(walk(ALL[name].load().Config))
    assert {place.path: place.role for place in places if place.role != "result"} == ROLES[name]
    assert {place.role for place in places} <= set(get_args(Role))


@each_job
@pytest.mark.parametrize("role", ["work", "watch"])
def test_what_only_carries_out_or_watches_may_differ(name: str, role: str, tmp_path: Path) -> None:
    config, fields = config_of(ALL[name], tmp_path), fields_with(ALL[name], role)
    record(tmp_path, config, fields)
    before = (tmp_path / CONFIG).read_text()
    assert take(tmp_path, config) == "continue"
    assert (tmp_path / CONFIG).read_text() == before


@each_job
def test_every_differing_field_of_the_result_is_refused_by_name(name: str, tmp_path: Path) -> None:
    config, fields = config_of(ALL[name], tmp_path), fields_with(ALL[name], "result")
    record(tmp_path, config, fields)
    assert refused(tmp_path, config) == set(fields)


@each_job
def test_places_may_move_with_their_content_alone(name: str, tmp_path: Path) -> None:
    config, fields = config_of(ALL[name], tmp_path), fields_with(ALL[name], "place")
    record(tmp_path, config, fields)
    if moved := set(fields) - {OUTPUT}:
        assert refused(tmp_path, config, found="other") == moved
        assert refused(tmp_path, config, recorded=None) == moved
    assert take(tmp_path, config) == "continue"
    assert loading.load(type(config), [tmp_path / CONFIG]) == config
