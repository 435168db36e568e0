"""Recipes: each is a whole config of `train`, and fits the GPUs that its data are planned for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.config.loading import load
from core.root import ROOT
from tools.plan.config import Config
from tools.plan.job import run
from tools.plan.step_samples import workload
from tools.train.config import Config as TrainConfig

DATA = {
    **dict.fromkeys(("dit_s2_256", "dit_b2_256", "dit_l2_256", "dit_xl2_256", "sit_xl2_256"), "imagenet_256"),
    "dit_xl2_512": "imagenet_512",
    "text_to_image_256": "cc12m_256",
    "text_to_video_256": "video_256",
    "text_to_video_480": "video_480",
    "long_video_480": "long_video_480",
}
PARAMETERS = {
    "dit_s2_256": 33,
    "dit_b2_256": 130,
    "dit_l2_256": 458,
    "dit_xl2_256": 675,
}  # millions, published
each_recipe = pytest.mark.parametrize("name", DATA)


def planned(name: str, *fields: str) -> Config:
    files = [ROOT / "configs/train" / f"{name}.yaml", ROOT / "configs/plan" / f"{DATA[name]}.yaml"]
    return load(Config, files, list(fields))


def test_every_recipe_is_looked_at() -> None:
    assert {path.stem for path in (ROOT / "configs/train").glob("*.yaml")} == {*DATA}
    assert {path.stem for path in (ROOT / "configs/plan").glob("*.yaml")} == {*DATA.values()}
    page = (ROOT / "docs/recipes.md").read_text()
    assert [name for name in DATA if f"`{name}`" not in page] == []


@each_recipe
def test_a_recipe_is_a_config_of_train_whose_ranks_share_its_groups(name: str) -> None:
    config = load(TrainConfig, [ROOT / "configs/train" / f"{name}.yaml"], ["source=x", "output=y"])
    plan = planned(name)
    assert (config.model, config.engine, config.data) == (plan.model, plan.engine, plan.data)
    work = workload("", "", plan.plan, plan.data, plan.model, plan.engine)
    assert work.samples == plan.plan.samples
    assert all(work.rank_share(bucket) >= 1 for bucket in work.buckets)


@pytest.mark.full
@each_recipe
def test_a_recipe_fits_as_it_is_configured(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(planned(name, "format=json"))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["configured"]["fits"]
    if name in PARAMETERS:
        assert round(found["parameters"] / 1e6) == PARAMETERS[name]
