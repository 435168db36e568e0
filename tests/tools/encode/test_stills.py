"""Last pictures of clips as stills: of every view, hashed, and as sampling encodes them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.progress import size
from data.dataset.index import Dataset
from data.latent.beside.beside_reading import Beside, BesideReader
from data.latent.normalising import Normaliser
from data.latent.reading import reader_of
from data.loading.loader import LatentLoader
from data.loading.sources.config import EncodingConfig
from data.loading.sources.online import OnlineLatents
from data.media.formats import MediaLimits
from data.media.images import encode_png, to_tensor
from data.order.buckets import Bucket
from data.order.steps import LoaderConfig
from data.raw.decoding import read_pixels
from models.autoencoder.opening import open_autoencoder
from models.denoisers.dit import DiTConfig
from tests.data.raw_datasets import damage, make_raw
from tests.tools.encode.encode_runs import SHAPES, content, make_autoencoder, make_config
from tools.encode import job as encode
from tools.inspect import job as inspect
from tools.inspect.config import Config as InspectConfig
from tools.runs.encoders import AutoencoderEncoder, Clock
from tools.sample.given.config import TaskConfig
from tools.sample.given.known import Keeper

WORLD, STEP = (
    World(0, 1, 0, torch.device("cpu")),
    LoaderConfig(group_size=8, rank_multiple=8, verify="samples"),
)
Made = tuple[Dataset, encode.Config, int]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Encode pictures and clips, one of which cannot be decoded, with stills of both views."""
    folder = tmp_path_factory.mktemp("stills")
    raw = make_raw(folder, images=4, clips=4)
    bad = int(np.flatnonzero(np.asarray(raw.media["frames"]) > 1)[1])
    damage(raw, bad)
    config = make_config(raw, make_autoencoder(folder / "autoencoder"), folder / "cache")
    config = replace(config, flip=True, stills=True, quarantine_budget=1, dtype="float32")
    encode.run(config)
    return raw, config, bad


def clips_of(raw: Dataset, bad: int) -> list[int]:
    return [row for row in np.flatnonzero(np.asarray(raw.media["frames"]) > 1).tolist() if row != bad]


def pixels_of(raw: Dataset, config: encode.Config, row: int, *, flip: bool = False) -> np.ndarray:
    return read_pixels(raw, row, Bucket(*SHAPES[1]), config.buckets, MediaLimits(), flip=flip)


def still_by_hand(raw: Dataset, config: encode.Config, row: int, *, flip: bool = False) -> Tensor:
    """Return (1, C, 1, H, W): the last latent frame of the last picture, repeated for the clip's length."""
    pixels = pixels_of(raw, config, row, flip=flip)
    clip = to_tensor(np.repeat(pixels[-1:], len(pixels), 0))[None]
    with torch.no_grad():
        return open_autoencoder(config.autoencoder).encode(clip)[0, :1, :, -1:]


def test_every_view_of_every_clip_has_its_still(made: Made) -> None:
    raw, config, bad = made
    cache = Dataset(config.output)
    cache.verify()
    assert cache.manifest.format_version == 2
    assert cache.manifest.extra["made_from"]["views"] == ["plain", "flip", "still"]
    latents, kind = reader_of(cache, verify=True), Beside.stills(cache.manifest)
    reader = BesideReader(cache.folder, cache.manifest, latents.parts, kind, verify=True)
    for row in range(len(raw)):
        for flip in (False, True):
            rows = np.array([row])
            found = reader.gather(rows, latents.entries(rows), flipped=np.array([flip]))
            if raw.media["frames"][row] == 1:
                assert found is None
                continue
            assert found is not None
            expected = (
                torch.zeros_like(found[0]) if row == bad else still_by_hand(raw, config, row, flip=flip)
            )
            torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)


def test_tables_come_again_from_the_tars_alone_and_damage_is_named(made: Made, tmp_path: Path) -> None:
    raw, config, bad = made
    copy = shutil.copytree(config.output, tmp_path / "cache")
    before = content(copy)
    for name in ("index.npy", "still.npy", "crc.npy"):
        (copy / name).unlink()
    inspect.run(InspectConfig(source=str(copy), action="reindex"))
    after = content(copy)
    for name in ("index.npy", "still.npy", "crc.npy", "flip.npy", "dataset.json"):
        assert after[name] == before[name]
    row = clips_of(raw, bad)[0]
    cache = Dataset(copy)
    with cache.shard_path(int(cache.index[row]["shard"])).open("r+b") as file:
        file.seek(int(np.load(copy / "still.npy")[row]))
        file.write(b"\x01\x02")
    latents, kind, rows = reader_of(cache), Beside.stills(cache.manifest), np.array([row])
    reader = BesideReader(copy, cache.manifest, latents.parts, kind, verify=True)
    with pytest.raises(WorkError, match=rf"damaged: the still of sample {row} is not what crc.npy"):
        reader.gather(rows, latents.entries(rows))


def test_batches_bring_the_still_of_the_view_that_is_drawn_as_online_encoding_does(made: Made) -> None:
    raw, config, _ = made
    cache, drawn = Dataset(config.output), set()
    stored = LatentLoader([cache], STEP, WORLD, 3, stills=True)
    encoder = AutoencoderEncoder(config.autoencoder, WORLD.device, "fp32", Clock())
    own = EncodingConfig(buckets=config.buckets, flip=True, dtype="float32", quarantine_budget=1)
    known = {"run": config.output.with_name("run"), "made_with": {}, "stills": True}
    online = OnlineLatents(raw, encoder, None, own, **known)  # type: ignore[arg-type]
    (config.output.with_name("run")).mkdir()
    anew = online.loader(replace(STEP, verify="off"), WORLD, 3)
    for number in range(6):
        for batch, other in zip(stored.load(number), anew.load(number), strict=True):
            assert torch.equal(batch.id, other.id)
            if batch.x.shape[3] == 1:
                assert batch.stills is None
                assert online.stills(other) is None
                continue
            assert batch.stills is not None
            found = online.stills(other)
            assert found is not None
            there = batch.weight > 0
            torch.testing.assert_close(found[there], batch.stills[there], rtol=1e-5, atol=1e-5)
            for row, still in zip(batch.id[there].tolist(), batch.stills[there], strict=True):
                plain = still_by_hand(raw, config, row)
                drawn.add(torch.allclose(still, plain, rtol=1e-4, atol=1e-5))
    assert drawn == {False, True}
    assert LatentLoader([cache], STEP, WORLD, 3).load(0)[0].stills is None


def test_a_last_picture_is_encoded_alike_in_training_and_sampling(made: Made, tmp_path: Path) -> None:
    raw, config, bad = made
    autoencoder, row = open_autoencoder(config.autoencoder), clips_of(raw, bad)[0]
    statistics = Dataset(config.output).manifest.extra["statistics"]
    normaliser = Normaliser.from_dict(statistics)
    trained = normaliser.apply(still_by_hand(raw, config, row).expand(-1, -1, 2, -1, -1))[0, :, -1]
    pixels = pixels_of(raw, config, row)
    for name, place in (("first", 0), ("last", -1)):
        (tmp_path / f"{name}.png").write_bytes(encode_png(pixels[place]))
    keeper = Keeper(DiTConfig(), autoencoder, normaliser, tmp_path, WORLD.device)
    last = str(tmp_path / "last.png")
    for task in (TaskConfig(given_last=last), TaskConfig(given=str(tmp_path / "first.png"), given_last=last)):
        shape = (9, *pixels.shape[1:3])
        found = keeper.known(task, shape)
        assert found is not None
        assert found.kept is not None
        assert found.kept[0, :, 0, 0].tolist() == [float(bool(task.given)), 0, 1]
    found = keeper.known(TaskConfig(given_last=last), pixels.shape[:3])
    assert found is not None
    torch.testing.assert_close(found.latents[:, -1], trained, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"given_last=.*of 2 latent frames the given ones leave none"):
        keeper.known(TaskConfig(given=str(tmp_path / "first.png"), given_last=last), pixels.shape[:3])


def test_what_has_no_clips_and_what_was_encoded_without_is_refused(made: Made, tmp_path: Path) -> None:
    _, config, _ = made
    with pytest.raises(UserError, match=r"made with views=\['plain', 'flip', 'still'\]|stills"):
        encode.run(replace(config, stills=False))
    still = make_raw(tmp_path, images=2, clips=0)
    other = replace(config, source=str(still.folder), output=tmp_path / "cache")
    with pytest.raises(UserError, match="stills=true: expected false, since no sample is a clip"):
        encode.plan(other)


def test_a_dry_run_prints_the_bytes_of_stills(made: Made) -> None:
    raw, config, _ = made
    lines = encode.plan(replace(config, output=config.output.with_name("other")))
    (line,) = [line for line in lines if "stills of last pictures" in line]
    clips = int((np.asarray(raw.media["frames"]) > 1).sum())
    channels = open_autoencoder(config.autoencoder).latent_channels
    side = 16 // open_autoencoder(config.autoencoder).spatial_compression
    assert line.startswith(f"of that {size(clips * 2 * 4 * channels * side**2)} are stills")
