"""The recipes on digits: of equal cost, and what trains, samples and scores them goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.config.loading import load
from core.errors import UserError, WorkError
from core.root import ROOT
from launch.demo import job as demo
from tests.integration.recipe_cache import make_recipe_cache
from tools.bench import class_use, digits_recipes
from tools.bench.digits_recipes import (
    NAMES,
    PAGE,
    RECIPES,
    TABLED,
    Found,
    Row,
    as_table,
    cost,
    measure,
    publish,
)
from tools.bench.page_tables import with_table
from tools.train import job as train
from tools.train.config import Config

IMAGE, CLIP = (4, 1, 8, 8), (4, 5, 8, 8)


def test_every_recipe_is_in_the_table_and_in_the_docs() -> None:
    assert {path.stem for path in RECIPES.glob("digits_*.yaml")} == {f"digits_{name}" for name in NAMES}
    page = (ROOT / "docs/method.md").read_text()
    assert [name for name in NAMES if f"`digits_{name}`" not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_trainings_are_of_equal_cost(name: str) -> None:
    assert cost(name) == pytest.approx(cost("flow"), rel=0.05)


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_refuses_nothing(name: str, tmp_path: Path) -> None:
    cache = make_recipe_cache(tmp_path, [IMAGE, CLIP], classes=10)
    fields = [f"source={cache}", f"output={tmp_path / 'run'}", "engine.device=cpu", "data.group_size=2"]
    said = train.plan(load(Config, [RECIPES / f"digits_{name}.yaml"], [*fields, "data.rank_multiple=2"]))
    assert any(line.startswith("step: ") for line in said), said


def test_rows_are_a_table() -> None:
    rows = [
        Row("flow", "heun", 24, 0.91234, 12.34, None, 2.961e12, 0.99, 4),
        Row("frames", "heun", 24, 0.9, 8, 0.85, 3e12, 0.99, 4),
    ]
    assert as_table(rows).splitlines()[2:] == [
        "| `digits_flow` | `heun` | 24 | 0.912 | 12.3 |  | 2.96 |",
        "| `digits_frames` | `heun` | 24 | 0.900 | 8.0 | 0.85 | 3.00 |",
        "| real digits |  |  | 0.990 | 4.0 |  |  |",
    ]


def test_tables_take_the_place_of_those_of_the_page_and_of_nothing_else(tmp_path: Path) -> None:
    page, numbers = tmp_path / "method.md", tmp_path / "numbers.json"
    text = PAGE.read_text()
    page.write_text(text)
    rows = [Row(name, "heun", 24, 0.9, 8, None, 3e12, 0.99, 4) for name in NAMES]
    found = Found(rows, [[(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)]] * len(NAMES))
    publish(found, page, numbers)
    lines = page.read_text().split("\n")
    assert lines.count("| `digits_jit` | `heun` | 24 | 0.900 | 8.0 |  | 3.00 |") == 1
    assert lines.count("| `digits_jit` | 0.100 / 0.200 | 0.300 / 0.400 | 0.500 / 0.600 |") == 1
    others = [line for line in lines if not line.startswith(("| `digits_", "| real digits"))]
    assert others == [line for line in text.split("\n") if not line.startswith(("| `digits_", "| real"))]
    assert json.loads(numbers.read_text())["class_use"]["errors"]["ddpm"][2] == [0.5, 0.6]
    with pytest.raises(WorkError, match="expected one table that begins"):
        with_table("no table", found.tables[0])
    with pytest.raises(UserError, match="ddmp: expected "):
        measure(tmp_path, tmp_path, ["ddmp"])


@pytest.mark.full
@pytest.mark.multiprocess
def test_the_digits_of_the_demo_are_trained_on_sampled_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    demo.run(demo.Config(output=str(tmp_path / "demo"), scale="tiny"))
    fields = ["model.width=32", "model.depth=1", "trainer.steps=3", "optimizer.warmup_steps=1"]
    known: dict[str, Any] = {"chosen": ("mean_flow", "frames"), "fields": fields, "counts": (30, 10)}
    found = measure(tmp_path / "demo", tmp_path / "out", **known)
    rows = found.rows
    assert [(row.recipe, row.evaluations) for row in rows] == [
        (each.recipe, each.evaluations) for each in TABLED if each.recipe in ("mean_flow", "frames")
    ]
    assert all(row.macs > 0 and row.frechet > 0 for row in rows)
    written = json.loads((tmp_path / "out" / "table.json").read_text())
    assert written["rows"][0]["recipe"] == "mean_flow"
    class_use.main(str(tmp_path / "demo" / "latents"), [str(tmp_path / "out" / "frames" / "run")])
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("| frames | ")
    assert said[-1].count(" / ") == len(class_use.LEVELS)
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(digits_recipes, "_do", lambda *words: done.append(words))
    assert measure(tmp_path / "demo", tmp_path / "out", **known) == found
    assert not any(words[0] == "train" for words in done)
