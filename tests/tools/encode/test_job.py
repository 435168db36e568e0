"""Encoding into a cache: complete, continued to the same bytes, and honest about what it was made from."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.config.loading import load
from core.config.yaml_files import HEADER
from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.faults import failpoints
from core.files import write_json, write_text
from data.dataset.index import Dataset
from data.latent.encoding import Part
from data.latent.normalising import Normaliser
from data.latent.reading import LatentReader
from data.loading.loader import LatentLoader
from data.media.formats import MediaLimits
from data.media.images import to_tensor
from data.order.buckets import Bucket, BucketConfig
from data.order.steps import LoaderConfig
from data.raw.decoding import read_pixels
from data.reindexing.from_parts import index_from_parts, scanned, views_from_parts
from models.autoencoder import store
from tests.tools.encode.encode_runs import SHAPES, content, make_autoencoder
from tools.encode import job as encode
from tools.encode import setup, shard_parts


def test_the_cache_holds_the_encoders_moments_row_by_row(config, sources):
    raw, encoder = sources
    encode.run(config)
    cache = Dataset(config.output)
    cache.verify()
    loaded = store.load(encoder)
    reader = LatentReader(cache.folder, cache.manifest, cache.index, verify=True)
    assert cache.index["id"].tolist() == list(range(len(raw)))
    assert cache.index["label"].tolist() == raw.index["label"].tolist()
    assert cache.index["shard"].tolist() == raw.index["shard"].tolist()
    assert cache.manifest.classes == raw.manifest.classes == ("a", "b")
    assert [tuple(shape) for shape in cache.manifest.buckets] == [(2, 4, 1, 2, 2), (2, 4, 2, 2, 2)]
    for row in range(len(raw)):
        bucket = Bucket(*SHAPES[int(raw.media["frames"][row] > 1)])
        pixels = read_pixels(raw, row, bucket, config.buckets, MediaLimits())
        expected = loaded.encode(to_tensor(pixels)[None])
        assert torch.allclose(reader.gather(np.array([row])).float(), expected, rtol=2e-3, atol=2e-3)


def test_what_the_cache_was_made_from_is_recorded(config, sources):
    raw, encoder = sources
    encode.run(config)
    text = (config.output / "dataset.json").read_text()
    made_from = json.loads(text)["extra"]["made_from"]
    assert made_from["encoder"] == store.fingerprint(encoder)
    assert made_from["encoder_config"]["width"] == 8
    assert made_from["source"] == {"fingerprint": raw.manifest.fingerprint, "samples": len(raw)}
    assert made_from["preprocessing"]["buckets"] == ["1x16x16", "5x16x16"]
    assert set(made_from["preprocessing"]["resize"]) == {"images", "videos"}
    assert (made_from["store"], made_from["dtype"]) == ("moments", "float16")
    assert made_from["computation"] == {"device": "cpu", "precision": "fp32", "batch": 3, "threads": 1}
    assert str(config.output.parent) not in text
    assert str(raw.folder) not in text


@pytest.mark.parametrize("fps", [0.0, 16.0])
def test_the_rates_at_which_its_clips_play_are_recorded(config, sources, fps):
    raw, _ = sources
    buckets = BucketConfig(shapes=SHAPES, fps=fps)
    encode.run(replace(config, buckets=buckets))
    films = raw.media["frames"][:] > 1
    rates = Counter([fps] * int(films.sum()) if fps else raw.media["fps"][:][films].tolist())
    found = Dataset(config.output).manifest.extra["frame_rates"]
    assert dict(found) == rates
    assert [count for _, count in found] == sorted(rates.values(), reverse=True)


def test_training_batches_of_the_cache_have_unit_scale(config):
    encode.run(config)
    cache = Dataset(config.output)
    loader = LatentLoader(
        [cache], LoaderConfig(group_size=8, groups_per_step=4), World(0, 1, 0, torch.device("cpu")), 0
    )
    normaliser = Normaliser.from_dict(cache.manifest.extra["statistics"])
    means = torch.cat(
        [normaliser.apply(b.x[:, 0].float()).flatten(2).mean(2) for k in range(8) for b in loader.load(k)]
    )
    assert means.mean(0).abs().max() < 0.5
    assert all(0 < std < 10 for std in cache.manifest.extra["statistics"]["std"])


def test_the_index_can_be_made_again_from_the_parts(config):
    encode.run(
        replace(config, buckets=BucketConfig(shapes=((1, 16, 16), (9, 16, 16))), quarantine_budget=0.5)
    )
    cache = Dataset(config.output)
    index, shapes = index_from_parts(cache.folder, cache.manifest.shards)
    assert (index == cache.index).all()
    assert [list(shape) for shape in shapes] == list(cache.manifest.buckets)


def test_what_an_earlier_version_began_is_finished_with_all_hashes(config, tmp_path):
    """Its receipts hold no CRC-32 of the samples."""
    whole = replace(config, output=tmp_path / "whole")
    encode.run(whole)
    failpoints.arm("encode.manifest:raise")
    with pytest.raises(WorkError, match="failpoint"):
        encode.run(config)
    failpoints.arm("")
    receipts = sorted((config.output / ".receipts").glob("[0-9]*.json"))
    for receipt in receipts:
        receipt.write_text(
            json.dumps(
                {k: v for k, v in json.loads(receipt.read_text()).items() if k not in ("crcs", "sha256")}
            )
        )
    encode.run(config)
    assert len(receipts) > 1
    assert content(config.output) == content(whole.output)


def test_the_precision_that_a_cache_was_begun_with_is_kept(config, monkeypatch):
    """By auto, although it would be another on this device now; and from a record of an earlier version."""
    monkeypatch.setattr(setup, "settle_precision", lambda asked, device_type, fast: "tf32")
    output = str(config.output)
    named = [f"source={config.source}", f"autoencoder={config.autoencoder}", f"output={output}"]
    cuda = torch.device("cuda")
    assert setup.settled_precision(config, cuda) == "tf32"
    write_json(config.output / ".receipts" / "made_from.json", {"computation": {"precision": "fp32"}})
    assert setup.settled_precision(config, cuda) == "fp32"
    assert load(encode.Config, overrides=named).precision == "auto"
    write_text(config.output / "config.yaml", f"{HEADER}encode\nprecision: bf16\n")
    assert load(encode.Config, overrides=named).precision == "bf16"
    assert load(encode.Config, overrides=[*named, "precision=fp32"]).precision == "fp32"
    assert load(encode.Config, overrides=[*named, "overwrite=true"]).precision == "auto"


def test_a_second_run_finds_it_finished(config, capsys):
    encode.run(config)
    before = {path: path.stat().st_mtime_ns for path in config.output.iterdir()}
    encode.run(replace(config, processes=2))
    assert "finished before" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in config.output.iterdir()}


class Stopped(BaseException):
    """An interrupt as Ctrl-C causes it: at any place."""


def test_a_number_changed_in_a_receipt_is_noticed_and_repair_encodes_again(config, tmp_path):
    whole = replace(config, output=tmp_path / "whole")
    encode.run(whole)
    failpoints.arm("encode.manifest:raise")
    with pytest.raises(WorkError, match="failpoint"):
        encode.run(config)
    failpoints.arm("")
    receipt = config.output / ".receipts" / "000000.json"
    content = json.loads(receipt.read_text())
    content["sums"]["squares"][0] *= 2
    receipt.write_text(json.dumps(content))
    with pytest.raises(WorkError, match=r"000000.json is damaged: it differs from its own SHA-256"):
        encode.run(config)
    encode.run(replace(config, action="repair"))
    assert Dataset(config.output).manifest == Dataset(whole.output).manifest


@pytest.mark.parametrize("place", ["encode.batch", "encode.receipt", "encode.manifest"])
def test_a_job_that_was_stopped_continues_to_the_same_bytes(config, place, monkeypatch):
    encode.run(config)
    whole = content(config.output)
    again = replace(config, output=config.output.with_name("again"))
    calls = 0

    def fail(name: str, value: object = None) -> object:
        nonlocal calls
        calls += name == place
        if calls == (1 if place == "encode.manifest" else 3) and name == place:
            raise Stopped
        return value

    for module in ("data.latent.encoding", "tools.encode.shard_parts", "data.latent.assembly"):
        monkeypatch.setattr(f"{module}.failpoint", fail)
    with pytest.raises(Stopped):
        encode.run(again)
    assert not (again.output / "dataset.json").exists()
    (again.output / ".tmp-killed-latents-000001.tar").write_bytes(b"half")
    encode.run(again)
    assert content(again.output) == whole


def test_the_next_shard_is_encoded_while_a_part_is_written(config, monkeypatch):
    """The first part is only written once the first batch of the second shard has been encoded."""
    second, plain, begun = threading.Event(), shard_parts.write_part, Part.packs
    waited = []

    def write(path, shard, packs):
        waited.append(shard != 0 or second.wait(60))
        return plain(path, shard, packs)

    def packs(part, advance):
        for pack in begun(part, advance):
            if part.shard == 1:
                second.set()
            yield pack

    monkeypatch.setattr(shard_parts, "write_part", write)
    monkeypatch.setattr(Part, "packs", packs)
    encode.run(config)
    assert len(waited) > 2
    assert all(waited)
    Dataset(config.output).verify()


def test_a_full_disk_leaves_nothing_half_written(config):
    failpoints.arm("encode.batch:enospc")
    try:
        with pytest.raises(OSError, match="No space left"):
            encode.run(config)
    finally:
        failpoints.arm("")
    assert not list(config.output.glob("*.tar"))
    encode.run(config)
    Dataset(config.output).verify()


def test_the_mirrored_view_is_the_latent_of_the_mirrored_picture(config, sources):
    raw, encoder = sources
    encode.run(replace(config, flip=True))
    cache = Dataset(config.output)
    cache.verify()
    assert cache.manifest.extra["made_from"]["views"] == ["plain", "flip"]
    loaded = store.load(encoder)
    reader = LatentReader(cache.folder, cache.manifest, cache.index, verify=True)
    for row in range(len(raw)):
        bucket = Bucket(*SHAPES[int(raw.media["frames"][row] > 1)])
        for flip in (False, True):
            pixels = read_pixels(raw, row, bucket, config.buckets, MediaLimits(), flip=flip)
            found = reader.gather(np.array([row]), flipped=np.array([flip])).float()
            assert torch.allclose(found, loaded.encode(to_tensor(pixels)[None]), rtol=2e-3, atol=2e-3)
    shards = cache.manifest.shards
    index, _ = index_from_parts(cache.folder, shards)
    flips, _ = views_from_parts(scanned(cache.folder, shards, index))
    assert (flips == np.load(config.output / "flip.npy")).all()


def test_storing_the_mean_halves_the_latents(config):
    encode.run(replace(config, store="mean"))
    assert [shape[0] for shape in Dataset(config.output).manifest.buckets] == [1, 1]


def test_another_config_or_encoder_is_refused(config, tmp_path):
    encode.run(config)
    with pytest.raises(UserError, match="batch=4: expected 3"):
        encode.run(replace(config, batch=4))
    other = make_autoencoder(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="autoencoder="):
        encode.run(replace(config, autoencoder=other))


def test_an_encoder_that_changed_in_place_is_refused(config, tmp_path):
    mine = replace(config, autoencoder=make_autoencoder(tmp_path / "mine"))
    encode.run(mine)
    make_autoencoder(tmp_path / "mine", seed=1)
    with pytest.raises(UserError, match=r"made with encoder=\w+, now it is \w+"):
        encode.run(mine)


def test_a_disk_that_is_too_small_is_found_before_work_starts(config, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"expected a disk with .* free, this one has 100 B"):
        encode.run(config)
    assert not list(config.output.glob("*.tar"))
    encode.run(replace(config, require_space=False))
    Dataset(config.output).verify()


def test_frames_that_the_autoencoder_cannot_take_are_refused(config):
    bad = replace(config, buckets=BucketConfig(shapes=((1, 16, 16), (6, 16, 16))))
    with pytest.raises(UserError, match=r"6x16x16 does not suit the autoencoder: frames=6: expected 1 \+ k"):
        encode.run(bad)
    assert not config.output.exists()


def test_a_latent_cache_is_no_source(config):
    encode.run(config)
    with pytest.raises(UserError, match="expected a raw dataset"):
        encode.run(replace(config, source=str(config.output), output=config.output.with_name("b")))


def test_the_plan_tells_shapes_samples_and_bytes(config):
    lines = encode.plan(config)
    assert lines[0] == "1x16x16 pixels -> 2x4x1x2x2 latents: 10 samples"
    assert lines[1] == "5x16x16 pixels -> 2x4x2x2x2 latents: 4 samples"
    assert "to be written to" in lines[2]
    assert not config.output.exists()
