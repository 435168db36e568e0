"""Every job in the table has a module, a typed and documented config, and examples that are true."""

from __future__ import annotations

import dataclasses
import shlex
import typing

import pytest

from core.config import loading
from core.config.fields import walk
from core.run.claim import EARLIER_NAMES
from core.run.folder import AUTOENCODER, FINISHED, SAMPLES, SCORES
from launch import arguments, cli, jobs
from launch.jobs import JOBS, Job
from models.autoencoder import store

PARTS_OF_THE_DEMO = {"digits", "report"}
WITHOUT_OUTPUT = {*PARTS_OF_THE_DEMO, "inspect", "bench", "compare"}
WITHOUT_CHANCE = {"export", "convert"}  # nothing in it is drawn
COMMON = {"source", "output", "seed", "overwrite", "processes"}
each_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)


def sections(schema: type) -> list[type]:
    return list({place.owner: None for place in walk(schema)})


def unannotated(schema: type) -> list[str]:
    """Return the names of plain class attributes, which look like fields but are not (`micro_batch = 8`)."""
    known = set(typing.get_type_hints(schema))
    return [
        name
        for name, value in vars(schema).items()
        if not name.startswith("_")
        and name not in known
        and not callable(value)
        and not hasattr(value, "__get__")
    ]


def test_jobs_on_ranks_name_the_file_that_makes_their_output_complete() -> None:
    expected = {
        "train-autoencoder": f"{AUTOENCODER}/{store.CONFIG}",
        "train": FINISHED,
        "sample": SAMPLES,
        "evaluate": SCORES,
    }
    assert {job.name: job.done for job in JOBS if job.on_ranks} == expected


@each_job
def test_job_has_config_plan_and_run_and_its_name(job: Job) -> None:
    module = job.load()
    assert dataclasses.is_dataclass(module.Config)
    assert callable(module.plan)
    assert callable(module.run)
    assert module.__doc__
    assert module.Config.job == job.name
    if job.name not in WITHOUT_OUTPUT:
        common = COMMON - {"seed"} if job.name in WITHOUT_CHANCE else COMMON
        assert {field.name for field in dataclasses.fields(module.Config)} >= common


@each_job
def test_every_attribute_of_a_config_is_a_documented_field(job: Job) -> None:
    for section in sections(job.load().Config):
        assert unannotated(section) == [], section
        assert section.__dataclass_params__.frozen, section
        assert all(field.kw_only for field in dataclasses.fields(section)), section
    for field in loading.describe(job.load().Config):
        assert field.help, field.path
    assert not [field.path for field in loading.describe(job.load().Config) if "\n" in field.help]


@each_job
def test_help_is_complete(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([job.name, "--help"]) == 0
    text = capsys.readouterr().out
    for field in loading.describe(job.load().Config):
        assert f"  {field.path}{':' if field.type == 'section' else '='}" in text


@each_job
def test_places_are_shown_as_paths(job: Job) -> None:
    """Alike in every job, whether the field is a Path or, since it may be a URL or '', text."""
    names = {"output", "autoencoder", "text_encoder", "validation_source", "real", "heldout"}
    names |= {"source"} if job.name != "bench" else set()
    for field in loading.describe(job.load().Config):
        if field.path.rpartition(".")[2] in names:
            assert field.type in ("path", "path or URL"), field.path


@each_job
def test_examples_name_fields_that_exist(job: Job) -> None:
    known = {place.path for place in walk(job.load().Config)}
    assert job.examples
    for example in job.examples:
        program, *words = shlex.split(example)
        typed = arguments.parse(words, jobs.SEVERAL)
        assert (program, typed.job) == ("longtake", job.name)
        assert {override.partition("=")[0] for override in typed.overrides} <= known


@pytest.mark.parametrize(
    "job", [job for job in JOBS if job.name not in WITHOUT_OUTPUT], ids=lambda job: job.name
)
def test_a_typo_names_the_nearest_field(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([job.name, "outptu=x"]) == 2
    assert capsys.readouterr().err == f"longtake {job.name}: outptu: no such field; the nearest is output\n"


def test_the_check_for_unannotated_attributes_finds_one() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        limit: typing.ClassVar[int] = 3
        steps: int = 1
        micro_batch = 8

        def __post_init__(self) -> None: ...

        @property
        def double(self) -> int:
            return 2 * self.steps

    hints = typing.get_type_hints(Config)
    assert set(hints) == {"limit", "steps"}
    assert unannotated(Config) == ["micro_batch"]


def test_what_earlier_versions_called_jobs_names_jobs_of_today() -> None:
    """The keys are modules of the past, which stay as they are when modules move."""
    for module, name in EARLIER_NAMES.items():
        assert module.rpartition(".")[2].replace("_", "-") == name
        assert name in {job.name for job in JOBS}


def test_find_names_the_nearest_job() -> None:
    assert jobs.find("train").module == "tools.train.job"
    with pytest.raises(ValueError, match=r"^tarin: no such job; the nearest is train"):
        jobs.find("tarin")
