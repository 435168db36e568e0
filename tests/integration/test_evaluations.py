"""Scores of samples within a training job. Run: pytest tests/integration/test_evaluations.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.config.loading import load
from core.diffusion.sampling import SamplerConfig
from core.draws import Draws
from core.errors import UserError
from core.records import read_rows
from data.dataset.index import Dataset
from data.latent.reading import reader_of
from tests.data.caches import CLIP, IMAGE
from tests.integration.look_runs import FIELDS, assert_equal, break_off, config
from tests.integration.tiny_run import (
    command,
    finish_ranks,
    make_autoencoder,
    make_latents,
)
from tools.evaluate.measures import frechet
from tools.preview import sampled_look
from tools.preview.latent_features import LatentFeatures
from tools.preview.real_latents import RealLatents, choose
from tools.runs.loaded_run import LatentSpace
from tools.train.config import Config
from tools.train.job import run

EVALUATE = (
    "evaluate.every=2",
    "evaluate.samples=18",
    "evaluate.batch=4",
    "evaluate.sampler.steps=2",
    "evaluate.sampler.guidance=2",
)
AVERAGES = ("0.9999", "0.05")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    make_autoencoder(folder / "autoencoder")
    return make_latents(folder / "latents", folder / "autoencoder", ([IMAGE] * 40, [CLIP] * 24))


@pytest.fixture(scope="module")
def plain(cache: Path) -> Path:
    """Train without scores."""
    run(config(cache, cache.parent / "plain"))
    return cache.parent / "plain"


@pytest.fixture(scope="module")
def evaluated(cache: Path) -> Path:
    run(config(cache, cache.parent / "evaluated", *EVALUATE))
    return cache.parent / "evaluated"


def scores(run: Path) -> list[dict[str, Any]]:
    return [
        {name: part for name, part in row.items() if name != "attempt"}
        for row in read_rows(run / "evaluations.jsonl")
    ]


def test_a_run_scores_its_averages_and_trains_as_without(cache: Path, plain: Path, evaluated: Path) -> None:
    assert_equal(plain, evaluated)
    found = scores(evaluated)
    assert [row["step"] for row in found] == [2, 4]
    assert {*found[0]} == {"step", *AVERAGES}
    for part in (row[name] for row in found for name in AVERAGES):
        assert (part["samples"], part["reference_count"]) == (18, 45)
        assert part["frechet"] > part["frechet_real"] > 0
        assert part["ruler"]["cells"] == [1, 1, 1]
        assert part["ruler"]["real"] == Dataset(cache).manifest.fingerprint
    assert len({row[name]["frechet"] for row in found for name in AVERAGES}) == 4  # weights differ
    assert len({row[name]["frechet_real"] for row in found for name in AVERAGES}) == 1
    assert found[0]["0.05"]["subject"]["weights"] == "0.05"
    assert found[0]["0.05"]["subject"]["sampler"]["steps"] == 2


def test_the_distance_of_real_samples_is_that_of_their_features(evaluated: Path, cache: Path) -> None:

    space, data = LatentSpace.read(evaluated), Dataset(cache)
    own, others = choose(data, 18, 4096, 0)
    assert len({*own.tolist(), *others.tolist()}) == 18 + 45
    reader, features = reader_of(data), LatentFeatures(3, 1, 1)

    def plainly(some: np.ndarray) -> np.ndarray:
        found = []
        for row in some:
            moments = reader.gather(np.array([row]))[0].double()
            entry = reader.entries(np.array([row]))["id"].astype(np.int64)
            ids = torch.from_numpy(entry)
            noise = Draws(0, 0, ids, torch.zeros_like(ids)).normal("posterior", tuple(moments.shape[1:]))[0]
            x = space.normaliser.apply((moments[0] + (0.5 * moments[1]).exp() * noise).float()[None])[0]
            found.append(torch.cat([x.mean((1, 2, 3)), x.std((1, 2, 3), correction=0)]).double())
        return torch.stack(found).numpy()

    expected = frechet(plainly(own), plainly(others))
    _, distance = RealLatents(data, space, 0).measured(features, own, others)
    assert distance == pytest.approx(expected, rel=1e-5)
    assert scores(evaluated)[0]["0.05"]["frechet_real"] == pytest.approx(expected, rel=1e-5)


def test_what_an_early_end_breaks_off_is_made_up_for(
    cache: Path, plain: Path, evaluated: Path, tmp_path: Path
) -> None:
    break_off(config(cache, tmp_path / "run", *EVALUATE))
    assert not (tmp_path / "run" / "evaluations.jsonl").exists()
    run(config(cache, tmp_path / "run", *EVALUATE))
    assert_equal(plain, tmp_path / "run")
    assert scores(tmp_path / "run") == scores(evaluated)


def test_a_run_that_is_killed_while_it_evaluates_goes_on(
    cache: Path, plain: Path, evaluated: Path, tmp_path: Path
) -> None:
    fields = (*FIELDS, *EVALUATE)
    results = finish_ranks(1, command(cache, tmp_path / "run", *fields), LONGTAKE_FAULT="preview.batch:kill")
    assert [status for status, _ in results] == [-9], results
    run(config(cache, tmp_path / "run", *EVALUATE))
    assert_equal(plain, tmp_path / "run")
    assert scores(tmp_path / "run") == scores(evaluated)


@pytest.mark.multiprocess
def test_two_ranks_train_as_without_and_give_the_scores_of_one(
    cache: Path, evaluated: Path, tmp_path: Path
) -> None:
    """Under ZeRO-3, where a rank with fewer forward passes than the other would leave it waiting."""
    stage = ("engine.zero_stage=3", "engine.timeout_s=60")
    for name, fields in {"plain": (), "evaluated": EVALUATE}.items():
        results = finish_ranks(2, command(cache, tmp_path / name, *FIELDS, *stage, *fields))
        assert [status for status, _ in results] == [0, 0], results
    assert_equal(tmp_path / "plain", tmp_path / "evaluated")
    for row, alone in zip(scores(tmp_path / "evaluated"), scores(evaluated), strict=True):
        for name in AVERAGES:
            assert row[name]["frechet"] == pytest.approx(alone[name]["frechet"], rel=1e-3)
            assert row[name]["samples"] == 18
            assert row[name]["ruler"] == alone[name]["ruler"]


def test_samples_that_are_not_finite_cost_the_score_alone(
    cache: Path, plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = sampled_look.make_latents
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampled_look, "make_latents", lambda *a: made(*a) * torch.inf)
        run(config(cache, tmp_path / "run", *EVALUATE))
    assert_equal(plain, tmp_path / "run")
    assert "too large" in scores(tmp_path / "run")[0]["0.9999"]["failed"]
    assert "warning: no evaluation after step 2, and training continues: 0.9999:" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (
            "evaluate.samples=17",
            r"evaluate\.samples=17: expected at least 18, for a covariance of 3 channels",
        ),
        ("evaluate.samples=32", r"evaluate\.samples=32: expected at most 31, half of the samples of"),
        ("evaluate.sampler.solver=dopri5", r"evaluate\.sampler\.solver=dopri5: expected one of fixed steps"),
        ("evaluate.every=5", r"evaluate\.every=5: expected at most trainer\.steps=4"),
        ("evaluate.real=nowhere", r"evaluate\.real=nowhere: expected"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_first_step(
    cache: Path, tmp_path: Path, field: str, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        run(config(cache, tmp_path / "run", *EVALUATE, field))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_cache_of_another_encoder_is_refused(cache: Path, tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder", seed=1)
    other = make_latents(tmp_path / "other", tmp_path / "autoencoder")
    with pytest.raises(
        UserError, match=r"evaluate\.real=.*other: expected a cache made by the run's encoder"
    ):
        run(config(cache, tmp_path / "run", *EVALUATE, f"evaluate.real={other}"))


def test_usual_samplers_are_those_of_sample() -> None:
    settings = load(Config, overrides=["source=a", "output=b"]).evaluate.sampler.settings
    assert settings == SamplerConfig(solver="euler", steps=50, guidance=1.0)
