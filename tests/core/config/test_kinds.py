"""Sections of several kinds: a section's `kind` says which class its other fields are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import pytest

from core.config import loading
from core.config.settings import setting
from core.errors import UserError


class Shape(Protocol):
    @property
    def kind(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Disc:
    kind: Literal["disc"] = setting("disc", "what shape it is")
    radius: float = setting(1.0, "half of its width", low=0)


@dataclass(frozen=True, kw_only=True)
class Box:
    presets: ClassVar[Mapping[str, Box]] = {}
    kind: Literal["box"] = setting("box", "what shape it is")
    preset: str = setting("", "start from this preset")
    width: int = setting(2, "width", low=1)
    height: int = setting(3, "height", low=1)

    def __post_init__(self) -> None:
        if self.width > self.height:
            raise UserError("width", self.width, f"at most height={self.height}")


Box.presets = {"square": Box(width=3), "tall": Box(width=1, height=9)}
KINDS: dict[str, type] = {"disc": Disc, "box": Box}


@dataclass(frozen=True, kw_only=True)
class Part:
    shape: Shape = setting(Box(height=7), "its outline", kinds=KINDS)


@dataclass(frozen=True, kw_only=True)
class Job:
    steps: int = setting(1, "steps")
    shape: Shape = setting(Disc(radius=2.0), "the outline", kinds=KINDS)
    part: Part = setting(Part(), "a smaller one")


def test_without_a_kind_the_section_is_its_default() -> None:
    assert loading.load(Job).shape == Disc(radius=2.0)
    assert loading.load(Job, [], ["shape.radius=3"]).shape == Disc(radius=3.0)


def test_fields_are_those_of_the_kind_that_is_named_wherever_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("shape: {width: 3}")
    assert loading.load(Job, [file], ["shape.kind=box", "shape.height=5"]).shape == Box(width=3, height=5)
    file.write_text("shape: {kind: box, preset: tall}")
    assert loading.load(Job, [file], ["shape.height=5"]).shape == Box(preset="tall", width=1, height=5)
    assert loading.load(Job, [file], ["shape.kind=disc", "shape.kind=box"]).shape.kind == "box"


def test_a_kind_starts_from_its_own_defaults_and_the_usual_one_from_those_of_the_section() -> None:
    """The section's default says radius=2 and height=7; neither is the default of its class."""
    job = loading.load(Job, [], ["shape.kind=box", "part.shape.kind=disc"])
    assert (job.shape, job.part.shape) == (Box(), Disc())
    assert loading.load(Job, [], ["part.shape.kind=box"]).part.shape == Box(height=7)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["shape.kind=cone"], "shape.kind=cone: expected disc or box"),
        (["part.shape.kind=cone"], "part.shape.kind=cone: expected disc or box"),
        (["shape.kind=box", "shape.radius=1"], "shape.radius: no such field; the nearest is "),
        (["shape.widht=1", "shape.kind=box"], "shape.widht: no such field; the nearest is shape.width"),
        (["shape.width=1"], "shape.width: no such field; the nearest is part.shape.width"),
        (["shape.kind=box", "shape.width=4"], "shape.width=4: expected at most height=3"),
        (["shape.kind=box", "shape.preset=x"], "shape.preset=x: expected square or tall"),
        (["shape.kind=box", "shape.width=0"], "shape.width=0: expected an integer, at least 1"),
        (["shape=box"], "shape=box: a section; set its fields, such as shape.kind=..."),
        (["shape.kind.x=box"], "shape.kind"),
    ],
)
def test_refusals_name_the_field_of_the_kind(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        loading.load(Job, [], overrides)
    assert str(caught.value).startswith(message)


def test_a_refusal_of_a_kind_names_the_file_that_asked_for_it_and_no_other(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.yaml", tmp_path / "wrong.yaml"
    right.write_text("shape: {kind: box}")
    wrong.write_text("shape: {kind: cone}")
    with pytest.raises(UserError, match=rf"^shape\.kind=cone: expected disc or box \(in {wrong}\)$"):
        loading.load(Job, [right, wrong])
    with pytest.raises(UserError, match=r"^shape\.kind=cone: expected disc or box$"):
        loading.load(Job, [right], ["shape.kind=cone"])


def test_what_is_recorded_says_the_kind_and_is_read_back(tmp_path: Path) -> None:
    job = loading.load(Job, [], ["shape.kind=box", "shape.preset=tall", "part.shape.kind=disc"])
    assert loading.to_dict(job)["shape"]["kind"] == "box"
    assert loading.from_dict(Job, loading.to_dict(job)) == job
    loading.save(job, tmp_path / "config.yaml")
    assert loading.load(Job, [tmp_path / "config.yaml"]) == job


def test_an_older_record_without_a_kind_is_of_the_usual_one() -> None:
    assert loading.from_dict(Job, {"shape": {"radius": 4.0}}).shape == Disc(radius=4.0)
    assert loading.with_defaults({"shape": {"radius": 4.0}}, Job)["shape"] == {"kind": "disc", "radius": 4.0}
    recorded = {"part": {"shape": {"kind": "disc"}}}
    assert loading.with_defaults(recorded, Job)["part"]["shape"] == {"kind": "disc", "radius": 1.0}


def test_help_lists_the_kinds_and_the_fields_of_the_one_that_is_named() -> None:
    lines = {line.path: line for line in loading.describe(Job)}
    assert (lines["shape"].type, lines["shape.kind"].type) == ("section", "disc|box")
    assert (lines["shape.kind"].default, lines["shape.radius"].default) == ("disc", "2.0")
    assert lines["shape.kind"].help.endswith("shape.kind=KIND --help lists the fields of another")
    assert lines["part.shape.height"].default == "7"
    other = {line.path: line for line in loading.help_of(Job, [], ["shape.kind=box"])}
    assert other["shape.preset"].type == "''|square|tall"
    assert (other["shape.kind"].default, other["shape.height"].default) == ("box", "3")
    assert "shape.radius" not in other
