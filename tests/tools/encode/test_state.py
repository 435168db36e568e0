"""Status, verification and repair of an encoding job and its cache from outside."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError, WorkError
from core.queue.leases import Leases
from data.dataset.index import Dataset
from tests.data.raw_datasets import damage, make_raw
from tests.tools.encode.encode_runs import content, make_autoencoder, make_config
from tests.tools.encode.test_workers import break_shard
from tools.encode import job as encode
from tools.encode.setup import LEASES
from tools.encode.state import speed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> encode.Config:
    """Make a finished cache with both views, one sample set aside."""
    folder = tmp_path_factory.mktemp("finished")
    raw = make_raw(folder, images=10, clips=2, samples_per_shard=3)
    damage(raw, 4)
    config = make_config(raw, make_autoencoder(folder / "autoencoder"), folder / "cache")
    config = replace(config, flip=True, quarantine_budget=2)
    encode.run(config)
    return config


@pytest.fixture
def copied(finished: encode.Config, tmp_path: Path) -> encode.Config:
    shutil.copytree(finished.output, tmp_path / "cache")
    return replace(finished, output=tmp_path / "cache")


def lines(config: encode.Config, capsys: pytest.CaptureFixture[str], action: str) -> list[str]:
    capsys.readouterr()
    encode.run(replace(config, action=action))
    return capsys.readouterr().err.splitlines()


def make_unfinished(config: encode.Config, output: Path) -> encode.Config:
    """Make a cache with all but shard 2 done, which failed twice of twice; shard 1 was lost later."""
    config = replace(config, output=output, queue=replace(config.queue, attempts=2, timeout_s=60))
    with pytest.MonkeyPatch.context() as patch:
        break_shard(patch, 2)
        with pytest.raises(WorkError, match="1 of 4 shards failed"):
            encode.run(config)
    return config


def test_status_tells_who_is_at_what_and_how_fast(
    finished: encode.Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(finished, capsys, "status") == [f"{finished.output}: finished, 12 samples in 4 parts"]
    config = make_unfinished(finished, tmp_path / "cache")
    now = (config.output / ".receipts" / "000003.json").stat().st_mtime
    for shard, seconds in ((0, 20), (3, 10)):
        os.utime(config.output / ".receipts" / f"{shard:06d}.json", (now - seconds, now - seconds))
    (config.output / ".receipts" / "000001.json").unlink()
    said = lines(config, capsys, "status")
    assert said[0].endswith("2 of 4 shards done (6 of 12 samples), 0 leased, 1 failed, 1 waiting")
    assert said[1].startswith("000002 failed 2 times: ")
    assert said[1].endswith("RuntimeError: CUDA out of memory")
    assert re.fullmatch(r"[\d.e+-]+ samples/s over the last 1 part; no worker is there now", said[2])
    for name, age in (("alive", 5), ("lost", 75)):
        unit = {"alive": "000001", "lost": "000002"}[name]
        assert Leases(config.output / LEASES, timeout_s=60, owner=f"{name}:7").claim(unit) is not None
        path = next((config.output / LEASES).glob(f"{unit}.*.lease"))
        os.utime(path, (path.stat().st_mtime - age, path.stat().st_mtime - age))
    text = "\n".join(lines(config, capsys, "status"))
    assert "1 leased, 1 failed, 0 waiting" in text
    assert "000001 leased by alive:7, last sign of life 5.0 s ago" in text
    assert "000002 leased by lost:7: no sign of life for 1 min 15 s" in text
    assert text.endswith("left")
    assert "suspect" not in text
    config = replace(config, queue=replace(config.queue, losses=0))
    assert "takes it over; suspect, so tried last: lost 1 worker in a row" in "\n".join(
        lines(config, capsys, "status")
    )


def test_the_rate_is_that_of_the_parts_after_the_first_stamp() -> None:
    samples = np.array([3, 5, 2, 4])
    stamps = {0: 100.0, 3: 108.0, 1: 110.0}
    assert speed(stamps, samples, 2, None) == "0.9 samples/s over the last 2 parts; no worker is there now"
    assert speed(stamps, samples, 2, 118.0) == "0.5 samples/s over the last 2 parts, 4.0 s left"
    assert speed({1: 100.0}, samples, 2, None).startswith("no rate yet")


def test_a_dry_run_tells_of_its_action_and_writes_nothing(
    copied: encode.Config, finished: encode.Config, tmp_path: Path
) -> None:
    corrupt(copied.output / "latents-000002.tar")
    before = content(copied.output)

    def told(config: encode.Config, action: str) -> list[str]:
        return encode.plan(replace(config, action=action))

    assert told(copied, "status")[0].startswith(f"tell how far {copied.output} is")
    assert told(copied, "verify")[0].startswith("hash 4 parts (")
    assert "and 4 other files" in told(copied, "verify")[0]
    assert told(copied, "repair") == [f"make latents-000002.tar of {copied.output} again"]
    assert told(finished, "repair") == [f"{finished.output}: nothing is damaged"]
    left = "0 samples in 0 shards: 0 B to be written"
    assert any(line.startswith(left) for line in told(finished, "encode"))
    assert content(copied.output) == before
    unfinished = make_unfinished(finished, tmp_path / "unfinished")
    corrupt(unfinished.output / "latents-000001.tar")
    lines = told(unfinished, "repair")
    assert lines[0] == f"make latents-000001.tar of {unfinished.output} again"
    assert any(line.startswith("6 samples in 2 shards: ") for line in lines)
    for action in ("status", "verify", "repair"):
        with pytest.raises(UserError, match="expected a cache that was begun"):
            told(replace(finished, output=tmp_path / "nothing"), action)


def test_status_of_nothing_is_a_users_error(finished: encode.Config, tmp_path: Path) -> None:
    for action in ("status", "verify", "repair"):
        with pytest.raises(UserError, match="expected a cache that was begun"):
            encode.run(replace(finished, action=action, output=tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_verify_names_every_damaged_file_and_repair_brings_the_same_bytes_back(
    copied: encode.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = content(copied.output)
    assert "4 parts, " in lines(copied, capsys, "verify")[-1]
    names = ["flip.npy", "index.npy", "latents-000002.tar", "quarantine.jsonl"]
    for name in names:
        corrupt(copied.output / name)
    (copied.output / "latents-000000.tar").unlink()
    with pytest.raises(WorkError, match=r"5 of 8 files are not as they were written: latents-000000.tar, "):
        encode.run(replace(copied, action="verify"))
    encode.run(replace(copied, action="repair"))
    assert content(copied.output) == whole
    Dataset(copied.output).verify()
    assert lines(copied, capsys, "repair")[-1].endswith("nothing is damaged")


def test_a_part_that_comes_out_otherwise_is_not_put_in_place(
    copied: encode.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.runs.encoders import AutoencoderEncoder

    plain = AutoencoderEncoder.encode
    monkeypatch.setattr(AutoencoderEncoder, "encode", lambda self, pixels: plain(self, pixels) * 1.01)
    corrupt(copied.output / "latents-000003.tar")
    before = content(copied.output)
    with pytest.raises(WorkError, match=r"latents-000003.tar: made anew it is not what it was"):
        encode.run(replace(copied, action="repair"))
    assert content(copied.output) == before


def test_a_damaged_part_of_an_unfinished_cache_is_found_and_made_anew(
    finished: encode.Config, tmp_path: Path
) -> None:
    config = make_unfinished(finished, tmp_path / "cache")
    corrupt(config.output / "latents-000001.tar")
    with pytest.raises(WorkError, match=r"1 of 3 files .*: latents-000001.tar; action=repair"):
        encode.run(replace(config, action="verify"))
    encode.run(replace(config, action="repair"))
    assert content(config.output) == content(finished.output)


def test_a_part_that_was_cut_off_keeps_the_cache_from_completion(
    finished: encode.Config, tmp_path: Path
) -> None:
    config = make_unfinished(finished, tmp_path / "cache")
    for failure in (config.output / LEASES).glob("*.failure.json"):
        failure.unlink()
    path = config.output / "latents-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(WorkError, match=r"latents-000001.tar: has \d+ bytes, not \d+ as written"):
        encode.run(config)
    encode.run(replace(config, action="repair"))
    assert content(config.output) == content(finished.output)
