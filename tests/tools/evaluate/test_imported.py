"""Results of other packages on record. Run: pytest tests/tools/evaluate/test_imported.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.diffusion.sampling import SamplerConfig
from core.errors import UserError
from core.files import write_text
from tests.tools.made_runs import make_run
from tools import compare
from tools.evaluate import job as evaluate
from tools.evaluate.config import Config
from tools.evaluate.packages.imported import read
from tools.sample import job as sample
from tools.sample.config import FilesConfig

VBENCH = {"subject_consistency": [0.91, [{"video_path": "a.mp4", "video_results": 0.9}]], "color": [0.5, []]}


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = make_run(tmp_path / "run", monkeypatch)
    fields: dict[str, Any] = {"sampler": SamplerConfig(steps=1), "files": FilesConfig(kind="png")}
    sample.run(
        sample.Config(source=str(run), output=str(tmp_path / "samples"), device="cpu", count=3, **fields)
    )
    return tmp_path / "samples"


def imported(samples: Path, name: str, content: Any, package: str = "vbench 0.1.5") -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    write_text(samples.parent / f"{name}.json", text)
    output, result = samples.parent / name, str(samples.parent / f"{name}.json")
    evaluate.run(Config(source=str(samples), output=str(output), imported=result, package=package))
    return output


def test_a_result_stands_in_the_scores_with_its_ruler(samples: Path) -> None:
    record = json.loads((imported(samples, "vbench", VBENCH) / "scores.json").read_text())
    assert (record["subject_consistency"], record["color"]) == (0.91, 0.5)
    assert record["ruler"]["measured_by"] == "vbench 0.1.5"
    assert record["ruler"]["prompts_rewritten"] is record["subject"]["prompts_rewritten"] is False
    assert record["ruler"]["samples"]["images"]["count"] == 3
    assert record["subject"]["sampler"]["steps"] == 1
    assert len(record["of"]["imported"]) == 64


def test_results_of_two_versions_are_not_ranked(samples: Path) -> None:
    one, same = imported(samples, "one", VBENCH), imported(samples, "same", {"color": [0.6, []]})
    compare.run(compare.Config(source=(str(one), str(same))))
    other = imported(samples, "other", VBENCH, "vbench 0.1.4")
    with pytest.raises(UserError, match=r"measured_by is vbench 0\.1\.5 in .* and vbench 0\.1\.4 in"):
        compare.run(compare.Config(source=(str(one), str(other))))


def test_geneval_is_summed_by_tag(tmp_path: Path) -> None:
    rows = [("counting", True), ("counting", False), ("colors", True)]
    lines = [json.dumps({"filename": "x.png", "tag": tag, "correct": right}) for tag, right in rows]
    write_text(tmp_path / "results.jsonl", "\n".join(lines) + "\n")
    assert read(tmp_path / "results.jsonl") == {"colors": 1.0, "counting": 0.5, "overall": 0.75}


def test_the_text_of_dpg_is_read_by_category(tmp_path: Path) -> None:
    """As `compute_dpg_bench.py` writes it: a line for each image, two levels of categories, and all."""
    images = "samples/0.png, 1.0, 0.5, 0.75\nsamples/a: 1.png, 0.0, 0.0\n"
    end = (
        "Model: samples\nL1 category scores:\n\tentity: 80.25\n\tglobal: 78.5\nL2 category scores:\n"
        "\tentity - part: 82.5\n\tglobal -: 78.5\n\tother - text: nan\nImage path: samples\n"
        "Save results to: samples/dpg-bench_results.txt\nDPG-Bench score: 69.5\n"
    )
    write_text(tmp_path / "dpg.txt", images + end)
    expected = {"entity": 80.25, "global": 78.5, "entity - part": 82.5, "overall": 69.5}
    assert read(tmp_path / "dpg.txt") == expected
    write_text(tmp_path / "broken.txt", images + end[:80])
    with pytest.raises(UserError, match="this one has no number"):
        read(tmp_path / "broken.txt")


def test_numbers_in_objects_have_dotted_names(tmp_path: Path) -> None:
    write_text(
        tmp_path / "r.json", json.dumps({"dpg": {"global": 80.5, "entity": 70}, "note": "x", "ok": True})
    )
    assert read(tmp_path / "r.json") == {"dpg.global": 80.5, "dpg.entity": 70.0}


@pytest.mark.parametrize("content", ["{", "[]", '{"note": "none"}'])
def test_what_holds_no_scores_is_refused(samples: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"imported=.*JSON with scores"):
        imported(samples, "bad", content)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"imported": "r.json"}, "package='': expected what measured it"),
        ({"package": "vbench 1"}, "imported='': expected a file"),
        ({"imported": "r.json", "package": "v", "real": "x"}, "real=x: expected nothing beside imported"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Config(source="s", output="o", **fields)
