"""A picture encoder's features in a cache: of every sample and view, hashed, counted, made anew from tars."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.averages.ema import EmaConfig
from core.diffusion.alignment.config import AlignmentConfig
from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.errors import UserError, WorkError
from core.optim.groups import OptimizerConfig
from core.train.config import TrainerConfig
from data.dataset.index import Dataset
from data.latent.beside.beside_reading import Beside, BesideReader
from data.latent.reading import LatentReader, reader_of
from data.loading.loader import LatentLoader
from data.loading.sources.pictured import PicturedLatents, Pictures
from data.media.formats import MediaLimits
from data.order.buckets import Bucket
from data.order.steps import LoaderConfig
from data.raw.decoding import read_pixels
from models.denoisers.dit import DiTConfig
from models.extractors.patches import load_patch_encoder
from tests.data.raw_datasets import damage, make_raw
from tests.models.public_models import save_dinov2
from tests.tools.encode.encode_runs import SHAPES, content, make_autoencoder, make_config
from tools.encode import job as encode
from tools.inspect import job as inspect
from tools.inspect.config import Config as InspectConfig
from tools.plan.config import PlanConfig
from tools.plan.estimate import Run, estimate
from tools.plan.memory import activations
from tools.plan.step_samples import workload
from tools.runs.encoders import PictureEncoder
from tools.train.config import DataConfig

BAD, WORLD = 2, World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, encode.Config]:
    """Encode eight samples, one of which cannot be decoded, with features of both views."""
    folder = tmp_path_factory.mktemp("features")
    raw = make_raw(folder)
    damage(raw, BAD)
    config = make_config(raw, make_autoencoder(folder / "autoencoder"), folder / "cache")
    config = replace(config, flip=True, quarantine_budget=1, picture_patch=8)
    config = replace(config, picture_encoder=str(save_dinov2(folder / "dino")))
    encode.run(config)
    return raw, config


def features_by_hand(raw: Dataset, config: encode.Config, row: int, *, flip: bool) -> torch.Tensor:
    """Return (F, 2, 2, 8) of a sample: of a clip of five frames, those of frames 1 and 3."""
    is_clip = bool(raw.media["frames"][row] > 1)
    pixels = read_pixels(raw, row, Bucket(*SHAPES[int(is_clip)]), config.buckets, MediaLimits(), flip=flip)
    encoder = load_patch_encoder(Path(config.picture_encoder), "picture_encoder")
    pictures = torch.from_numpy(pixels[[1, 3]] if is_clip else pixels).permute(0, 3, 1, 2)
    return encoder(pictures.float(), (2, 2))


def test_every_view_of_every_sample_has_its_own_features(made: tuple[Dataset, encode.Config]) -> None:
    raw, config = made
    cache = Dataset(config.output)
    cache.verify()
    assert cache.manifest.extra["features"] == {"shapes": [[1, 2, 2, 8], [2, 2, 2, 8]]}
    assert cache.manifest.format_version == 2
    origin = cache.manifest.extra["made_from"]["pictures"]
    assert (origin["class"], origin["width"], origin["patch"]) == ("Dinov2Model", 8, 8)
    latents = reader_of(cache, verify=True)
    reader = BesideReader(
        cache.folder, cache.manifest, latents.parts, Beside.features(cache.manifest), verify=True
    )
    for row in range(len(raw)):
        for flip in (False, True):
            rows = np.array([row])
            gathered = reader.gather(rows, latents.entries(rows), flipped=np.array([flip]))
            assert gathered is not None
            found = gathered[0]
            if row == BAD:
                assert not found.any()
            else:
                expected = features_by_hand(raw, config, row, flip=flip)
                torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)


def test_batches_bring_the_features_of_the_view_that_is_drawn(made: tuple[Dataset, encode.Config]) -> None:
    raw, config = made
    cache, step = Dataset(config.output), LoaderConfig(group_size=8, rank_multiple=8, verify="samples")
    whole = LatentLoader([cache], step, WORLD, 3, feature_steps=5)
    rows = [row for row in range(len(raw)) if row != BAD]
    views = {
        (row, flip): features_by_hand(raw, config, row, flip=flip) for row in rows for flip in (False, True)
    }
    drawn = set()
    for number in range(5):
        (batch,) = whole.load(number)
        assert batch.features is not None
        latents = reader_of(cache)
        for row, x, found in zip(batch.id.tolist(), batch.x, batch.features, strict=True):
            plain = latents.gather(np.array([row]), flipped=np.array([False]))[0]
            flip = not torch.equal(x, plain)
            if row == BAD:
                assert not found.any()
                continue
            drawn.add(flip)
            torch.testing.assert_close(found.float(), views[row, flip], rtol=2e-3, atol=2e-3)
        parts = LatentLoader([cache], step, WORLD, 3, 3, feature_steps=None).load(number)
        assert torch.equal(torch.cat([part.features for part in parts]), batch.features)
    assert drawn == {False, True}
    assert whole.load(5)[0].features is None
    assert LatentLoader([cache], step, WORLD, 3).load(0)[0].features is None


def test_a_dry_run_prints_the_bytes_of_features_first(made: tuple[Dataset, encode.Config]) -> None:
    raw, config = made
    lines = encode.plan(replace(config, output=config.output.with_name("other")))
    (line,) = [line for line in lines if "features of pictures" in line]
    clips = int((raw.media["frames"] > 1).sum())
    expected = 2 * 2 * 8 * (4 * (len(raw) - clips) + 8 * clips)
    assert f"of that {expected / 1024:.3g} KiB are features of pictures, up to 2x2x2x8 a view" in line


def test_tables_come_again_from_the_tars_alone(made: tuple[Dataset, encode.Config], tmp_path: Path) -> None:
    _, config = made
    copy = shutil.copytree(config.output, tmp_path / "cache")
    before = content(copy)
    for name in ("index.npy", "features.npy", "crc.npy"):
        (copy / name).unlink()
    inspect.run(InspectConfig(source=str(copy), action="reindex"))
    after = content(copy)
    for name in ("index.npy", "features.npy", "crc.npy", "flip.npy", "dataset.json"):
        assert after[name] == before[name]


def test_damage_is_named(made: tuple[Dataset, encode.Config], tmp_path: Path) -> None:
    _, config = made
    copy = shutil.copytree(config.output, tmp_path / "cache")
    offset = int(np.load(copy / "features.npy")[0])
    part = copy / "latents-000000.tar"
    with part.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x01\x02")
    cache = Dataset(copy)
    latents = LatentReader(cache.folder, cache.manifest, cache.index)
    reader = BesideReader(
        cache.folder, cache.manifest, latents.parts, Beside.features(cache.manifest), verify=True
    )
    rows = np.array([0, 1])
    with pytest.raises(WorkError, match=r"damaged: the features of sample 0 is not what crc.npy"):
        reader.gather(rows, latents.entries(rows))


def test_another_encoder_or_rule_is_refused(made: tuple[Dataset, encode.Config], tmp_path: Path) -> None:
    _, config = made
    other = replace(config, picture_encoder=str(save_dinov2(tmp_path / "other", seed=1)))
    with pytest.raises(UserError, match="picture_encoder"):
        encode.run(other)
    with pytest.raises(UserError, match="picture_patch"):
        encode.run(replace(config, picture_patch=4))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"picture_encoder=.*expected a folder with config.json"):
        encode.plan(replace(config, picture_encoder=str(tmp_path / "empty")))


def test_pictures_read_by_their_ids_give_the_features_of_the_cache(
    made: tuple[Dataset, encode.Config], tmp_path: Path
) -> None:
    raw, config = made
    cache, step = Dataset(config.output), LoaderConfig(group_size=8, rank_multiple=8)
    encoder = PictureEncoder(Path(config.picture_encoder), 8, WORLD.device, "fp32")
    source = PicturedLatents(cache, Pictures(cache, raw, "data.pictures.source"), encoder, 2)
    assert source.facts.feature_shapes == ((1, 2, 2, 8), (2, 2, 2, 8))
    assert source.facts.fingerprint != cache.manifest.fingerprint
    loader = source.loader(step, WORLD, 3, feature_steps=3)
    stored = LatentLoader([cache], step, WORLD, 3, feature_steps=None)
    for number in range(3):
        for batch, expected in zip(loader.load(number), stored.load(number), strict=True):
            assert torch.equal(batch.x, expected.x)
            found, there = source.features(batch), expected.weight > 0
            assert found is not None
            assert expected.features is not None
            torch.testing.assert_close(found[there], expected.features[there], rtol=2e-3, atol=2e-3)
    assert loader.load(3)[0].features is None
    with pytest.raises(UserError, match=r"data.pictures.source=.*expected the raw dataset \w+, from which"):
        Pictures(cache, make_raw(tmp_path, images=3), "data.pictures.source")


@pytest.mark.full
def test_a_plan_counts_the_projector_and_what_alignment_keeps(made: tuple[Dataset, encode.Config]) -> None:
    _, config = made
    model = DiTConfig(depth=3, width=16, heads=2, patch=(1, 1, 1), attention="math", num_classes=2)
    known = (PlanConfig(ranks=8), DataConfig(group_size=8), model, EngineConfig())
    place, learned = str(config.output), ObjectiveConfig(alignment=AlignmentConfig(projector_width=64))
    plain = workload(place, "", *known, ObjectiveConfig())
    data = replace(known[1], features="cached")
    aligned = workload(place, "", known[0], data, *known[2:], learned)
    assert [sum(group.numbers for group in work.own) for work in (plain, aligned)] == [0, 5768]
    less, more = (activations(model, EngineConfig(), work, "none") for work in (plain, aligned))
    assert all(a.bytes(8) < b.bytes(8) for a, b in zip(less, more, strict=True))
    sections = Run(model, EngineConfig(), EmaConfig(), TrainerConfig(), OptimizerConfig())
    before, after = (estimate(known[0], sections, work) for work in (plain, aligned))
    assert after["checkpoint_bytes"] - before["checkpoint_bytes"] == 3 * 4 * 5768
    assert after["configured"]["bytes"] > before["configured"]["bytes"]
    with pytest.raises(UserError, match="source='': expected one that has features"):
        workload("", "", replace(known[0], samples=8, shapes=((4, 1, 2, 2),)), data, *known[2:], learned)
