"""Recipes: each is a whole config of `train`, fits its GPUs, and has a config that encodes its data."""

from __future__ import annotations

import pytest

from core.config.loading import load
from core.config.yaml_files import read_yaml
from core.root import ROOT
from tests.tools.plan.recipe_table import DATA, MFU, figures_of, planned, row
from tools.encode.config import Config as EncodeConfig
from tools.plan.step_samples import workload
from tools.train.config import Config as TrainConfig

PARAMETERS = {
    "dit_s2_256": 33,
    "dit_b2_256": 130,
    "dit_l2_256": 458,
    "dit_xl2_256": 675,
}  # millions, published
SECTIONS = {
    "model": {
        **{f"dit_{size}2": f"dit_{size}2_256" for size in ("s", "b", "l", "xl")},
        "text_image": "text_to_image_256",
        "text_video": "text_to_video_256",
    },
    "data": {
        "imagenet": "dit_xl2_256",
        "captioned_images": "text_to_image_256",
        "video_256": "text_to_video_256",
        "video_480": "text_to_video_480",
        "long_video": "long_video_480",
    },
    "engine": {
        "sharded": "text_to_video_256",
        "shared_tokens_2": "text_to_video_480",
        "shared_tokens_8": "long_video_480",
    },
}  # each file of a section, and a recipe that has the same
COMPRESSION = {4: (1, 8), 16: (4, 8)}  # frames and pixels of a latent, by its channels: SD-VAE, Wan-VAE
ON_DIGITS = "digits_"  # small ones, whose data the demo makes: tests/tools/bench/test_digits_recipes.py
each_recipe = pytest.mark.parametrize("name", DATA)


def test_every_recipe_is_looked_at() -> None:
    planned_ones = {path.stem for path in (ROOT / "configs/train").glob("*.yaml")}
    assert {name for name in planned_ones if not name.startswith(ON_DIGITS)} == {*DATA}
    assert {path.stem for path in (ROOT / "configs/plan").glob("*.yaml")} == {*DATA.values()}
    assert {path.stem for path in (ROOT / "configs/encode").glob("*.yaml")} == {*DATA.values()}
    page = (ROOT / "docs/recipes.md").read_text()
    assert [name for name in DATA if f"`{name}`" not in page] == []


@each_recipe
def test_a_recipe_is_a_config_of_train_whose_ranks_share_its_groups(name: str) -> None:
    config = load(TrainConfig, [ROOT / "configs/train" / f"{name}.yaml"], ["source=x", "output=y"])
    plan = planned(name)
    assert (config.model, config.engine, config.data) == (plan.model, plan.engine, plan.data)
    work = workload("", "", plan.plan, plan.data, plan.model, plan.engine, plan.objective)
    assert work.samples == plan.plan.samples
    assert all(work.rank_share(bucket) >= 1 for bucket in work.buckets)


@each_recipe
def test_what_is_encoded_for_a_recipe_is_what_it_is_planned_for(name: str) -> None:
    file, required = ROOT / "configs/encode" / f"{DATA[name]}.yaml", ["source=x", "autoencoder=x", "output=y"]
    encoded, wanted = load(EncodeConfig, [file], required), planned(name).plan
    shapes = []
    for channels, frames, height, width in wanted.shapes:
        temporal, spatial = COMPRESSION[channels]
        shapes.append(((frames - 1) * temporal + 1, height * spatial, width * spatial))
    assert encoded.buckets.shapes == tuple(shapes)
    assert encoded.text_tokens == wanted.text_tokens
    assert encoded.store == ("moments" if wanted.moments == 2 else "mean")


@pytest.mark.parametrize("section", SECTIONS)
def test_files_of_a_section_are_those_of_the_recipes(section: str) -> None:
    folder = ROOT / "configs" / section
    assert {path.stem for path in folder.glob("*.yaml")} == {*SECTIONS[section]}
    for name, recipe in SECTIONS[section].items():
        of_recipe = read_yaml(ROOT / "configs/train" / f"{recipe}.yaml")[section]
        assert read_yaml(folder / f"{name}.yaml") == {section: of_recipe}


@pytest.mark.full
@each_recipe
def test_the_page_says_what_a_plan_says_and_a_recipe_fits(name: str) -> None:
    found = figures_of(planned(name, MFU))
    assert found["configured"]["fits"]
    assert row(name, found) in (ROOT / "docs/recipes.md").read_text().splitlines()
    if name in PARAMETERS:
        assert round(found["parameters"] / 1e6) == PARAMETERS[name]
