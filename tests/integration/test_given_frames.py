"""A run that learned from given frames takes them as a condition. Run: pytest FILE"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.config.loading import load
from core.errors import UserError
from core.records import read_rows
from data.media.film.codecs import encode_film
from data.media.images import decode_video, encode_png
from tests.integration.tiny_run import MODEL, OBJECTIVE, STEP, make_autoencoder, make_latents
from tools.sample import job as sample
from tools.train.config import Config
from tools.train.job import run

SIDE, FRAMES = 8, 3
TRAINED = "the run was not trained with frames given"


@pytest.fixture(scope="module", params=["frame_condition=true", "frame_levels=true"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    make_autoencoder(folder / "autoencoder")
    cache = make_latents(folder / "latents", folder / "autoencoder")
    fields = (f"model.{request.param}", "objective.given.ends=1", "trainer.steps=2")
    common = (f"source={cache}", f"output={folder / 'run'}", *MODEL, *OBJECTIVE, *STEP)
    run(load(Config, overrides=[*common, *fields]))
    return folder / "run"


def clips(trained: Path, name: str, *fields: str) -> list[np.ndarray]:
    made = trained.parent / name
    common = (f"source={trained}", f"output={made}", "count=2", f"frames={FRAMES}", "files.kind=ffv1")
    sample.run(load(sample.Config, overrides=[*common, "device=cpu", "sampler.steps=2", *fields]))
    return [decode_video((made / row["file"]).read_bytes()) for row in read_rows(made / "samples.jsonl")]


def test_trained_patterns_are_conditions_and_others_are_replaced(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
    for name in ("first", "last"):
        (tmp_path / f"{name}.png").write_bytes(encode_png(pixels[0]))
    (tmp_path / "all.mkv").write_bytes(encode_film(pixels, 12.0, "ffv1", None))
    first, last = f"task.given={tmp_path / 'first.png'}", f"task.given_last={tmp_path / 'last.png'}"
    for number, task in enumerate([(first,), (first, last)]):
        one, other = clips(trained, f"conditioned-{number}", *task)
        assert np.abs(one[0].astype(int) - other[0]).max() < np.abs(one[1].astype(int) - other[1]).max()
    assert TRAINED not in capfd.readouterr().err
    clips(trained, "replaced", last)
    assert f"{TRAINED} at the end: they are kept by replacement guidance" in capfd.readouterr().err
    clips(trained, "between", f"task.given={tmp_path / 'all.mkv'}", "task.given_every=2")
    assert f"{TRAINED} at every n-th place" in capfd.readouterr().err
    recorded = (trained / "config.yaml").read_text()
    if "frame_levels: true" in recorded:
        with pytest.raises(UserError, match=r"solver=dopri5: expected euler, .*since each sample"):
            clips(trained, "dopri5", first, "sampler.solver=dopri5")
