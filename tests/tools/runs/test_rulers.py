"""Rulers and subjects of real samples: what each setting of `sample` changes, and what refuses a ranking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.diffusion.sampling import SamplerConfig
from core.errors import UserError
from core.files import write_json
from tests.tools.made_runs import make_run
from tools import compare
from tools.runs.rulers import of_samples
from tools.runs.samples import Samples
from tools.sample import job as sample
from tools.sample.config import FilesConfig

PNG = FilesConfig(kind="png")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


def records(run: Path, name: str, rows: str = "", **fields: Any) -> dict[str, Any]:
    """Make samples, and return both records.  rows: of a file of requests."""
    known: dict[str, Any] = {"count": 4, "sampler": SamplerConfig(steps=1), "device": "cpu", "files": PNG}
    if rows:
        (run.parent / f"{name}.csv").write_text(rows)
        known |= {"requests": str(run.parent / f"{name}.csv")}
        del known["count"]
    output = run.parent / name
    sample.run(sample.Config(source=str(run), output=str(output), **known | fields))
    return of_samples([Samples.read(output)], {"formulas": 1})


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def differing(a: dict[str, Any], b: dict[str, Any], record: str) -> set[str]:
    one, other = dict(leaves(a[record])), dict(leaves(b[record]))
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@pytest.mark.parametrize(
    ("fields", "ruler", "subject"),
    [
        ({"count": 5}, {"count"}, set()),
        ({"classes": ("cat",)}, {"classes_sha256"}, set()),
        ({"files": FilesConfig(kind="jpeg")}, {"files", "quality"}, set()),
        ({"files": FilesConfig(kind="webp", quality=40)}, {"files", "quality"}, set()),
        ({"files": FilesConfig(kind="npz")}, {"files"}, set()),
        ({"height": 16, "width": 24}, {"width"}, set()),
        ({"seed": 3}, set(), {"seed"}),
        ({"weights": "raw"}, set(), {"weights", "weights_sha256"}),
        (
            {"sampler": SamplerConfig(steps=2, guidance=2.0), "negative_class": "dog"},
            set(),
            {"sampler.steps", "sampler.guidance", "negative_class"},
        ),
        ({"precision": "bf16"}, set(), {"precision"}),
    ],
)
def test_a_setting_is_of_the_ruler_or_of_the_subject(
    run: Path, fields: dict[str, Any], ruler: set[str], subject: set[str]
) -> None:
    usual, other = records(run, "usual"), records(run, "other", **fields)
    found = {name.removeprefix("samples.images.") for name in differing(usual, other, "ruler")}
    assert found == ruler
    assert differing(usual, other, "subject") == subject


def test_the_usual_quality_is_said_as_a_number_and_films_by_their_own(run: Path) -> None:
    films = FilesConfig(kind="png", films="h264")
    (form,) = records(run, "films", frames=9, files=films)["ruler"]["samples"].values()
    assert (form["files"], form["frames"], form["fps"]) == ("h264", 9, 12.0)
    assert isinstance(form["quality"], int)
    other = records(run, "other", frames=9, files=replace(films, films_quality=form["quality"]))
    assert list(other["ruler"]["samples"].values()) == [form]


def test_requests_say_classes_in_the_ruler_and_settings_in_the_subject(run: Path) -> None:
    plain = records(run, "plain", "class,seed\ncat,1\ndog,1\n")
    guided = records(run, "guided", "class,seed,steps\ndog,1,2\ncat,1,2\n")
    assert differing(plain, guided, "ruler") == set()
    assert {name.partition(".")[0] for name in differing(plain, guided, "subject")} == {"requests"}
    other = records(run, "other", "class,seed\ncat,1\ncat,1\n")
    assert differing(plain, other, "ruler") == {"samples.images.classes_sha256"}


def test_prompts_are_those_to_be_shown_whatever_was_encoded_and_however_many(tmp_path: Path) -> None:
    """Of files, by the names that they have where prompts were rewritten; not by the manifest's list."""

    def form(name: str, rows: list[dict[str, str]]) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        size = {"count": len(rows), "frames": 1, "height": 8, "width": 8, "files": {"kind": "png"}}
        write_json(folder / "samples.json", {**size, "prompts": []})  # as with more than 1,000
        listed = [
            {"index": n, "file": f"{n}.png", "sha256": "", "request": row} for n, row in enumerate(rows)
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
        return of_samples([Samples.read(folder)], {})

    plain = form("plain", [{"prompt": "a cat"}, {"prompt": "a dog"}])
    rewritten = form(
        "rewritten", [{"prompt": "a black cat", "name": "a cat"}, {"prompt": "a big dog", "name": "a dog"}]
    )
    assert plain["ruler"] == rewritten["ruler"]
    assert plain["ruler"]["samples"]["images"]["prompts_sha256"]
    assert (plain["subject"]["prompts_rewritten"], rewritten["subject"]["prompts_rewritten"]) == (False, True)
    other = form("other", [{"prompt": "a cat"}, {"prompt": "an eel"}])
    assert differing(plain, other, "ruler") == {"samples.images.prompts_sha256"}


def test_whatever_differs_between_rulers_refuses_a_ranking_by_name(run: Path) -> None:
    found = records(run, "usual")
    for name, _ in [*leaves(found["ruler"]), ("extractor_sha256", None), ("reference_count", None)]:
        other = json.loads(json.dumps(found["ruler"]))
        place = other
        *path, last = name.split(".")
        for each in path:
            place = place[each]
        place[last] = "another"
        sides = [
            compare.Scored(side, {"fid": 1.0}, ruler, found["subject"])
            for side, ruler in (("a", found["ruler"]), ("b", other))
        ]
        (said,) = compare.ruler_differences(sides)
        assert said.startswith(f"{name} is ")
        assert "another in b" in said
        assert "*" not in "".join(compare.table(sides))


def test_rulers_of_jobs_refuse_a_ranking(run: Path, tmp_path: Path) -> None:
    for name, fields in (("one", {}), ("two", {"count": 5})):
        made = {"fid": 1.0, **records(run, name, **fields)}
        (tmp_path / f"scores-{name}").mkdir()
        write_json(tmp_path / f"scores-{name}/scores.json", made)
    sources = tuple(str(tmp_path / f"scores-{name}") for name in ("one", "two"))
    with pytest.raises(UserError, match=r"rank nothing: samples\.images\.count is 4 in .* and 5 in"):
        compare.run(compare.Config(source=sources))
