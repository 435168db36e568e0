"""Workers of one cache that join, leave, are killed, disagree about the time, or meet bad shards."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from core.errors import CONTINUABLE, UserError, WorkError
from core.faults import failpoints
from core.files import temporary_name
from core.queue.failures import Failure, Failures
from core.queue.leases import Leases
from data.dataset.index import Dataset
from tests.data.raw_datasets import make_raw
from tests.tools.encode.encode_runs import (
    content,
    log_of,
    make_autoencoder,
    make_config,
    start_worker,
)
from tools.encode import job as encode
from tools.encode import workers as encode_workers
from tools.encode.setup import LEASES
from tools.runs.encoders import AutoencoderEncoder

DAY = 86400.0


def fill_the_disk(config: encode.Config, point: str) -> None:
    """End encoding at a failpoint, for want of space."""
    failpoints.arm(f"{point}:enospc")
    try:
        with pytest.raises(OSError, match="No space left"):
            encode.run(config)
    finally:
        failpoints.arm("")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return make_raw(folder, images=12, clips=4, samples_per_shard=2), make_autoencoder(folder / "autoencoder")


@pytest.fixture(scope="module")
def undisturbed(sources: tuple[Dataset, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    config = make_config(*sources, tmp_path_factory.mktemp("whole") / "cache")
    encode.run(config)
    return content(config.output)


@pytest.fixture
def config(sources: tuple[Dataset, Path], tmp_path: Path) -> encode.Config:
    return make_config(*sources, tmp_path / "cache")


def kill_half_twice(config: encode.Config, workers: int, seed: int) -> None:
    """Kill half of the workers at random moments of their work and start as many new ones, twice."""
    rng = random.Random(seed)

    def start():
        return start_worker(
            config, faults="encode.batch:sleep=0.4", clock_skew_s=rng.choice([-DAY, 0.0, DAY])
        )

    alive, killed = [start() for _ in range(workers)], []
    for _ in range(2):
        time.sleep(rng.uniform(0.05, 0.4))
        for _ in range(workers // 2):
            victim = alive.pop(rng.randrange(len(alive)))
            victim.kill()
            killed.append(victim)
        alive += [start() for _ in range(workers // 2)]
    for worker in (*killed, *alive):
        worker.join(120)
    for worker in alive:
        assert worker.exitcode == 0, log_of(config, worker.pid).read_text()
    assert [worker.exitcode for worker in killed] == [-signal.SIGKILL] * len(killed)


@pytest.mark.multiprocess
def test_killing_half_of_the_workers_twice_changes_no_byte(
    config: encode.Config, undisturbed: dict[str, bytes]
) -> None:
    seed = random.randrange(2**32)
    kill_half_twice(config, 4, seed)
    assert content(config.output) == undisturbed, seed


@pytest.mark.full
@pytest.mark.multiprocess
@pytest.mark.parametrize("seed", range(10))
def test_killing_half_of_eight_workers_twice_changes_no_byte(
    config: encode.Config, undisturbed: dict[str, bytes], seed: int
) -> None:
    kill_half_twice(config, 8, seed)
    assert content(config.output) == undisturbed


@pytest.mark.multiprocess
def test_a_worker_process_that_is_killed_does_not_end_the_command(
    config: encode.Config,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Worker 0 stands still in its first batch until worker 1, which dies at its first receipt, is gone."""
    monkeypatch.setenv(failpoints.VARIABLE, "encode.receipt@rank=1:kill;encode.batch@rank=0:stop")
    outcome = encode_workers._outcome

    def await_end(number, process, words):
        if number == 0:
            first, second = sorted(multiprocessing.active_children(), key=lambda child: child._identity)
            assert first is process
            threading.Thread(target=let_go, args=(first, second), daemon=True).start()
        return outcome(number, process, words)

    def let_go(first, second):
        wait([second.sentinel])
        while not wait([first.sentinel], timeout=0.05):
            os.kill(first.pid, signal.SIGCONT)

    monkeypatch.setattr(encode_workers, "_outcome", await_end)
    encode.run(replace(config, processes=2))
    assert "worker 1 was ended by SIGKILL; the others finished" in capsys.readouterr().err
    assert content(config.output) == undisturbed


def test_workers_that_begin_at_once_agree(config: encode.Config, undisturbed: dict[str, bytes]) -> None:
    begin, problems = threading.Barrier(3), []

    def work() -> None:
        begin.wait()
        try:
            encode.run(config)
        except Exception as error:  # handed to the assertion below
            problems.append(error)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert problems == []
    assert content(config.output) == undisturbed


@pytest.mark.multiprocess
def test_sigterm_gives_the_shard_back_at_once(config: encode.Config) -> None:
    worker = start_worker(config, faults="encode.batch:sleep=0.3")
    leases = config.output / LEASES
    while not list(leases.glob("*.lease")):
        time.sleep(0.01)
    os.kill(worker.pid or 0, signal.SIGTERM)
    worker.join(60)
    assert worker.exitcode == CONTINUABLE
    assert list(leases.iterdir()) == []


def break_shard(monkeypatch: pytest.MonkeyPatch, shard: int) -> None:
    """Let the encoder run out of memory at the first sample of one shard."""
    from data.latent import encoding

    plain = encoding.read_pixels

    def read(dataset, row, *more, **options):
        if int(dataset.index["shard"][row]) == shard:
            raise RuntimeError("CUDA out of memory")
        return plain(dataset, row, *more, **options)

    monkeypatch.setattr(encoding, "read_pixels", read)


def test_a_shard_that_fails_again_and_again_is_named_and_repaired(
    config: encode.Config, undisturbed: dict[str, bytes]
) -> None:
    few = replace(config, queue=replace(config.queue, attempts=2))
    with pytest.MonkeyPatch.context() as patch:
        break_shard(patch, 3)
        with pytest.raises(WorkError, match=r"1 of 8 shards failed .* 000003: .*CUDA out of memory"):
            encode.run(few)
        assert len(list(config.output.glob("latents-*.tar"))) == 7
        with pytest.raises(WorkError, match=r"1 of 8 shards failed"):
            encode.run(few)
    encode.run(replace(few, action="repair"))
    assert content(config.output) == undisturbed


def test_a_shard_of_another_length_fails_whole_and_is_encoded_once_it_is_back(
    sources: tuple[Dataset, Path], tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(sources[0].folder, raw)
    config = make_config(Dataset(raw), sources[1], tmp_path / "cache")
    config = replace(config, quarantine_budget=16, queue=replace(config.queue, attempts=1))
    path = raw / Dataset(raw).manifest.shards[3].name
    whole = path.read_bytes()
    path.write_bytes(whole[:-512])
    with pytest.raises(WorkError, match=r"1 of 8 shards failed .* 000003: .*truncated or replaced"):
        encode.run(config)
    assert not (tmp_path / "cache" / "dataset.json").exists()
    path.write_bytes(whole)
    encode.run(replace(config, action="repair"))
    assert content(tmp_path / "cache") == undisturbed


def test_a_lease_folder_on_a_full_disk_loses_nothing(
    config: encode.Config, undisturbed: dict[str, bytes]
) -> None:
    fill_the_disk(config, "lease.written")
    assert list((config.output / LEASES).iterdir()) == []
    encode.run(config)
    assert content(config.output) == undisturbed


def test_an_assembly_that_died_is_taken_over_by_a_worker_with_parts_left(
    config: encode.Config, undisturbed: dict[str, bytes]
) -> None:
    fill_the_disk(config, "encode.receipt")
    dead = Leases(config.output / LEASES, timeout_s=config.queue.timeout_s, owner="dead")
    assert dead.claim("dataset") is not None
    encode.run(config)
    assert content(config.output) == undisturbed


def test_overwriting_under_another_worker_is_refused(config: encode.Config) -> None:
    encode.run(config)
    assert Leases(config.output / LEASES, timeout_s=60, owner="node7:1").claim("000002") is not None
    with pytest.raises(UserError, match="overwrite=true: expected false while node7:1 is at shard 000002"):
        encode.run(replace(config, overwrite=True))
    Dataset(config.output).verify()


def test_what_is_shown_while_encoding(config: encode.Config, capsys: pytest.CaptureFixture[str]) -> None:
    encode.run(config)
    text = capsys.readouterr().err
    assert "16 samples in 8 shards: " in text
    assert " free\n" in text
    assert "first part after" in text
    assert re.search(r"; 14 samples left, about .* of 1 worker\n", text)
    assert "encoder busy" in text


def test_an_encoder_is_never_asked_for_samples_of_two_shards(
    config: encode.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    plain = AutoencoderEncoder.encode

    def note(self, pixels):
        sizes.append(len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(AutoencoderEncoder, "encode", note)
    encode.run(config)
    assert sum(sizes) == 16
    assert max(sizes) <= 2  # a shard's samples, though a batch may hold 3


def test_what_other_workers_left_half_written_stops_neither_encode_nor_repair(
    config: encode.Config, undisturbed: dict[str, bytes]
) -> None:
    few = replace(config, queue=replace(config.queue, attempts=1))
    with pytest.MonkeyPatch.context() as patch:
        break_shard(patch, 3)
        with pytest.raises(WorkError, match=r"1 of 8 shards failed"):
            encode.run(few)
    for name in (".leases/000005.failure.json", ".leases/000005.000000.lease", ".receipts/000003.json"):
        temporary_name(config.output / name).touch()
    (config.output / ".leases" / "000004.failure.json").touch()  # torn; its shard is done
    encode.run(replace(few, action="status"))
    encode.run(replace(few, action="repair"))
    assert content(config.output) == undisturbed


def test_a_new_start_tries_again_what_was_given_up_for_lost_workers(
    config: encode.Config, undisturbed: dict[str, bytes]
) -> None:
    fill_the_disk(config, "encode.receipt")
    given_up = Failure("000002", ("lost 21 workers in a row",), final=True, lost=True)
    Failures(config.output / LEASES).record(given_up)
    encode.run(config)
    assert content(config.output) == undisturbed
