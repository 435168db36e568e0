"""Errors raised by a sample's content set it aside.

Failing storage ends the job; a bug does not go unseen.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from core.errors import StorageError, UserError, WorkError
from data.dataset import faults
from data.dataset.faults import Fault, attempt
from data.dataset.index import Dataset
from data.dataset.quarantine import BudgetError, Quarantine, read_quarantine
from data.dataset.retry import Retry
from data.media import images
from data.media.formats import MediaError
from data.raw import item as raw_item
from data.raw.decoding import sample_media
from data.raw.duplicates import DuplicateConfig
from tests.data.raw_datasets import make_raw
from tests.data.samples import image_bytes, image_folder, picture
from tests.tools.encode.encode_runs import make_autoencoder, make_config
from tools.encode import job as encode
from tools.shard import job as shard


def raising(error: BaseException) -> Any:
    def work(*arguments: Any, **named: Any) -> Any:
        raise error

    return work


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits between attempts, which are skipped."""
    waited: list[float] = []
    monkeypatch.setattr(faults, "RETRY", Retry(attempts=3, sleep=waited.append))
    return waited


def test_damage_is_the_samples_own() -> None:
    assert attempt(lambda: 7, "decode", "a") == 7
    assert attempt(raising(MediaError("cut off")), "decode", "a") == Fault("decode", "cut off")


@pytest.mark.parametrize("error", [TypeError("t"), KeyError("k"), ValueError("v"), ZeroDivisionError("z")])
def test_an_error_of_the_program_is_kept_with_its_traceback(error: Exception) -> None:
    fault = attempt(raising(error), "decode", "a")
    assert fault.error.startswith(f"error of the program: {type(error).__name__}: ")
    assert "in work" in fault.traceback


@pytest.mark.parametrize(
    "error", [UserError("a"), WorkError("b"), RuntimeError("CUDA"), FileNotFoundError("c")]
)
def test_what_concerns_more_than_a_sample_is_raised_at_once(error: Exception, waits: list[float]) -> None:
    with pytest.raises(type(error)):
        attempt(raising(error), "decode", "a")
    assert waits == []


FAILURES = [
    *(OSError(n, os.strerror(n)) for n in (errno.EIO, errno.ESTALE, errno.ENOSPC)),
    MemoryError("no room"),
]


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_storage_and_memory_are_tried_again_then_raised(error: Exception, waits: list[float]) -> None:
    with pytest.raises(type(error)) as raised:
        attempt(raising(error), "read", "a")
    assert raised.value is error
    assert len(waits) == 2
    outcomes = iter([error, error, None])

    def work() -> int:
        if (outcome := next(outcomes)) is not None:
            raise outcome
        return 7

    assert attempt(work, "read", "a") == 7


def config_of(source: Path, output: Path, **fields: Any) -> shard.Config:
    return shard.Config(source=str(source), output=str(output), samples_per_shard=2, **fields)


def fail_for(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, data: bytes, error: Exception) -> None:
    """Let a function of media raise where it is given these bytes."""
    plain = getattr(place, name)

    def broken(content: bytes, *rest: Any, **named: Any) -> Any:
        if content == data:
            raise error
        return plain(content, *rest, **named)

    monkeypatch.setattr(place, name, broken)


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_bug_in_shard_costs_one_sample_and_the_exit_status(
    looked_at: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.raw import survey

    source, output = image_folder(tmp_path / "in"), tmp_path / "out"
    data = (source / "dog/1.png").read_bytes()
    fail_for(
        monkeypatch, survey if looked_at else images, "probe" if looked_at else "check", data, KeyError("mp4")
    )
    more = {"duplicates": DuplicateConfig(exact=True)} if looked_at else {}
    with pytest.raises(
        WorkError, match=r"1 sample set aside by errors of this program.*dog/1.png: .*KeyError"
    ):
        shard.run(config_of(source, output, **more))
    assert len(Dataset(output)) == 5
    (log,) = (output / "logs").iterdir()
    assert log.read_text().startswith("sample dog/1.png, stage decode\nTraceback")
    assert "KeyError: 'mp4'" in log.read_text()


def test_a_bug_in_encode_costs_one_sample_and_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.raw import decoding

    raw = make_raw(tmp_path, images=6, clips=2)
    config = make_config(raw, make_autoencoder(tmp_path / "autoencoder"), tmp_path / "latents")
    fail_for(monkeypatch, decoding, "decode_media", sample_media(raw, 3), ValueError("Box can't exceed"))
    with pytest.raises(
        WorkError, match=r"1 sample set aside by errors of this program.*first: 3: .*ValueError"
    ):
        encode.run(config)
    cache = Dataset(config.output)
    assert (cache.index["size"] == 0).tolist() == [row == 3 for row in range(8)]
    assert "Box can't exceed" in (config.output / "logs/sample-000000003.txt").read_text()


def test_storage_that_fails_loses_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    source, output = image_folder(tmp_path / "in"), tmp_path / "out"
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    with monkeypatch.context() as patched:
        patched.setattr(raw_item, "open_within", raising(error))
        with pytest.raises(OSError, match="Input/output"):
            shard.run(config_of(source, output))
    assert len(waits) == 2
    assert read_quarantine(output) == []
    shard.run(config_of(source, output))
    assert len(Dataset(output)) == 6


def test_storage_out_of_reach_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = make_raw(tmp_path, images=2, clips=0)
    monkeypatch.setattr(raw, "read", raising(StorageError("tried 6 times")))
    with pytest.raises(StorageError):
        sample_media(raw, 0)
    monkeypatch.setattr(raw, "read", raising(WorkError("no sample")))
    with pytest.raises(MediaError):
        sample_media(raw, 0)


def test_a_pass_over_the_budget_goes_on_to_its_end_and_tells_all(tmp_path: Path) -> None:
    source, output = image_folder(tmp_path / "in"), tmp_path / "out"
    cut = image_bytes(picture(64, 64), "JPEG")
    for number in range(4):
        (source / f"cat/cut{number}.jpg").write_bytes(cut[: 300 + number])
    (source / "dog/no.png").write_bytes(b"hello")
    told = (
        r"5 of 11 samples were set aside, more than the budget of 1; .* by kind: 4 x decode: damaged image: "
        r".*, 1 x decode: not a JPEG.* quarantine_budget=5 goes on without them"
    )
    for _ in range(2):
        with pytest.raises(BudgetError, match=told):
            shard.run(config_of(source, output, quarantine_budget=1))
        assert not (output / "dataset.json").exists()
    shard.run(config_of(source, output, quarantine_budget=5))
    assert len(Dataset(output)) == 6
    assert len(read_quarantine(output)) == 5


def test_a_pass_ends_where_there_are_far_too_many(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", total=100, budget=1, beyond=3)
    for number in range(4):
        quarantine.add(number, "decode", f"damaged at byte {number}")
    with pytest.raises(BudgetError, match=r"4 of 100 .* by kind: 4 x decode: damaged at byte N "):
        quarantine.require_within_budget()
    with pytest.raises(BudgetError, match="5 of 100"):
        quarantine.add(4, "text", "none")


def test_a_list_of_kinds_ends(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", total=100, budget=0, beyond=100)
    for letter in "abcdefghijkl":
        quarantine.add(letter, "decode", letter)
    with pytest.raises(BudgetError, match="1 x decode: h, 4 of 4 other kinds"):
        quarantine.require_within_budget()
