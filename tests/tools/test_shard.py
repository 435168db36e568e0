"""The job `shard`: its plan, its result, bad input, full disks, kills."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.config.loading import load
from core.errors import UserError, WorkError
from core.faults import failpoints
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from tests.data.samples import clip_bytes, image_bytes, image_folder, picture
from tools.shard.job import Config, plan, run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make 10 images in two classes, a clip, a cut file, and a file of another kind."""
    folder = image_folder(tmp_path / "in", each=5)
    (folder / "dog/clip.mp4").write_bytes(clip_bytes(tmp_path))
    (folder / "cat/cut.jpg").write_bytes(image_bytes(picture(64, 64), "JPEG")[:500])
    (folder / "notes.md").write_text("x")
    return folder


def config_of(source: Path, output: Path, **fields: object) -> Config:
    return Config(source=str(source), output=str(output), **{"samples_per_shard": 4, **fields})  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Return everything except the record of the config, which names source and output."""
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "config.yaml"}


def test_fields_are_read_from_the_command_line() -> None:
    config = load(Config, overrides=["source=in", "output=out", "limits.pixels=100", "quarantine_budget=2"])
    assert (config.limits.pixels, config.quarantine_budget) == (100, 2.0)
    with pytest.raises(UserError, match=r"name=\.\./x: expected letters, digits, - and _"):
        load(Config, overrides=["source=in", "output=out", "name=../x"])


def test_plan_says_what_run_does(source: Path, tmp_path: Path) -> None:
    lines = plan(config_of(source, tmp_path / "out"))
    assert lines[0].startswith("12 samples, 0.0 MiB, 2 classes")
    assert lines[1] == f"3 shards data-000000.tar to data-000002.tar in {tmp_path / 'out'}"
    assert lines[2] == "passed over: 1 .md"
    assert not (tmp_path / "out").exists()


def test_whole_job(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config_of(source, tmp_path / "out"))
    dataset = Dataset(tmp_path / "out")
    assert (len(dataset), len(dataset.manifest.shards)) == (11, 3)
    dataset.verify()
    told = [json.loads(dataset.read(row)["json"]) for row in range(11)]
    names = [entry["source"] for entry in told]
    assert sorted(names) == [
        *(f"cat/{k}.png" for k in range(5)),
        *(f"dog/{k}.png" for k in range(5)),
        "dog/clip.mp4",
    ]
    assert names != sorted(names)  # mixed by default
    assert [entry["label"] for entry in told] == dataset.index["label"].tolist()
    assert "11 samples in 3 shards; 1 set aside, see" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob(".*"))


def test_order_and_classes_can_be_chosen(source: Path, tmp_path: Path) -> None:
    run(config_of(source, tmp_path / "out", shuffle=False, classes=False))
    dataset = Dataset(tmp_path / "out")
    names = [json.loads(dataset.read(row)["json"])["source"] for row in range(len(dataset))]
    assert names == sorted(names)
    assert (set(dataset.index["label"].tolist()), dataset.manifest.classes) == ({-1}, ())


def test_seed_changes_the_order_and_nothing_else(source: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(config_of(source, tmp_path / name, seed=seed))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_own_dataset_is_a_source(source: Path, tmp_path: Path) -> None:
    run(config_of(source, tmp_path / "a", shuffle=False))
    run(config_of(tmp_path / "a", tmp_path / "b", shuffle=False, samples_per_shard=100))
    first, second = Dataset(tmp_path / "a"), Dataset(tmp_path / "b")
    assert first.manifest.classes == second.manifest.classes
    assert first.index["label"].tolist() == second.index["label"].tolist()
    assert first.media.tolist() == second.media.tolist()


def test_finished_output_is_left_alone(source: Path, tmp_path: Path) -> None:
    config = config_of(source, tmp_path / "out")
    run(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    run(config)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(UserError, match="samples_per_shard=5: expected 4"):
        run(dataclasses.replace(config, samples_per_shard=5))
    run(dataclasses.replace(config, samples_per_shard=5, overwrite=True))
    assert DatasetManifest.read(tmp_path / "out").shards[0].samples == 5


def test_an_output_that_an_earlier_version_made_is_left_alone(source: Path, tmp_path: Path) -> None:
    """It recorded `classes: true` where the field was not given; that is null now."""
    config = config_of(source, tmp_path / "out")
    run(config)
    record = tmp_path / "out/config.yaml"
    text = record.read_text()
    assert "classes: null" in text
    record.write_text(text.replace("classes: null", "classes: true"))
    run(config)
    with pytest.raises(UserError, match="classes=False: expected True"):
        run(dataclasses.replace(config, classes=False))


def test_nothing_is_made_of_a_bad_source(tmp_path: Path) -> None:
    for folder in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="source="):
            run(config_of(tmp_path / folder, tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_output_inside_the_source_is_refused(source: Path) -> None:
    with pytest.raises(UserError, match="expected a folder outside of the source"):
        run(config_of(source, source / "out"))


def test_foreign_folder_is_not_written_into(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("x")
    with pytest.raises(UserError, match="output="):
        run(config_of(source, tmp_path / "out", overwrite=True))
    assert contents(tmp_path / "out") == {"thesis.tex": b"x"}


def test_budget_of_unusable_files(source: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"1 of 12 samples .* cat/cut.jpg: decode: damaged image"):
        run(config_of(source, tmp_path / "out", quarantine_budget=0))
    assert not (tmp_path / "out/dataset.json").exists()
    with pytest.raises(WorkError, match="1 of 12 samples"):  # the list is kept, so it stops at once
        run(config_of(source, tmp_path / "out", quarantine_budget=0))


@pytest.fixture
def files_of_at_most_8_kib() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("files_of_at_most_8_kib")
def test_write_that_the_system_refuses_leaves_nothing_half_written(source: Path, tmp_path: Path) -> None:
    config = config_of(source, tmp_path / "out")
    with pytest.raises(WorkError, match="File too large"):
        run(config)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {
        "config.yaml",
        ".receipts",
        "quarantine.jsonl",
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    run(config)
    undisturbed(config, tmp_path)


@pytest.mark.parametrize(
    "place", ["shard.sample@step=1", "shard.publish@step=2", "shard.receipt", "shard.manifest"]
)
def test_full_disk_leaves_whole_shards_only_and_the_job_continues(
    source: Path, tmp_path: Path, place: str
) -> None:
    config = config_of(source, tmp_path / "out")
    failpoints.arm(f"{place}:enospc")
    try:
        with pytest.raises(WorkError, match=r"out: No space left on device; .*the same command continues"):
            run(config)
    finally:
        failpoints.arm("")
    assert not (tmp_path / "out/dataset.json").exists()
    assert not list((tmp_path / "out").rglob(".tmp-*"))
    run(config)
    undisturbed(config, tmp_path)


def undisturbed(config: Config, folder: Path) -> None:
    """Require that the output equals that of a job which nothing disturbed."""
    run(dataclasses.replace(config, output=str(folder / "undisturbed")))
    assert contents(Path(config.output)) == contents(folder / "undisturbed")


KILL = """
import os, sys
import data.raw.ingest, data.raw.writing, tools.shard.choosing  # once, for all the children
from core.faults import failpoints
from tools.shard.job import Config, run

source, output, *places = sys.argv[1:]
config = Config(source=source, output=output, samples_per_shard=4)
for place in places:
    child = os.fork()
    if child == 0:
        failpoints.arm(place + ":kill")
        run(config)
        os._exit(0)
    signal = os.WTERMSIG(os.waitpid(child, 0)[1])
    names = os.listdir(output)
    print(signal, *(sum(name.startswith(prefix) for name in names) for prefix in ("data-", ".tmp-")))
"""


def test_killed_again_and_again_it_ends_with_the_bytes_of_an_undisturbed_job(
    source: Path, tmp_path: Path
) -> None:
    places = [
        "shard.sample",
        "shard.publish@step=1",
        "shard.receipt@step=1",
        "shard.sample@step=2",
        "shard.manifest",
    ]
    config = config_of(source, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", KILL, config.source, config.output, *places],
        capture_output=True,
        text=True,
        check=True,
    )
    killed = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    whole_and_debris = [(0, 1), (1, 1), (2, 0), (2, 1), (3, 0)]  # the next attempt removes the debris
    assert killed == [(signal.SIGKILL, *counts) for counts in whole_and_debris]
    run(config)
    undisturbed(config, tmp_path)


def test_a_shard_that_was_lost_before_the_end_is_written_again(source: Path, tmp_path: Path) -> None:
    config = config_of(source, tmp_path / "out")
    failpoints.arm("shard.manifest:raise")
    try:
        with pytest.raises(WorkError, match="failpoint"):
            run(config)
    finally:
        failpoints.arm("")
    (tmp_path / "out/data-000001.tar").unlink()
    os.truncate(tmp_path / "out/data-000002.tar", 512)
    run(config)
    undisturbed(config, tmp_path)


def test_killed_after_the_manifest_it_is_finished(source: Path, tmp_path: Path) -> None:
    config = config_of(source, tmp_path / "out")
    run(config)
    (tmp_path / "out/.receipts").mkdir()
    run(config)
    undisturbed(config, tmp_path)


@pytest.mark.multiprocess
def test_several_processes_write_the_same_bytes(source: Path, tmp_path: Path) -> None:
    run(config_of(source, tmp_path / "many", processes=2, samples_per_shard=3))
    run(config_of(source, tmp_path / "one", samples_per_shard=3))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.multiprocess
def test_a_process_that_dies_is_an_error_and_the_job_continues(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(source, tmp_path / "out", processes=2)
    monkeypatch.setenv(
        "LONGTAKE_FAULT", "shard.publish@step=1:kill"
    )  # read by the processes that are started
    with pytest.raises(WorkError, match="a process that shared the work died"):
        run(config)
    assert not (tmp_path / "out/dataset.json").exists()
    monkeypatch.delenv("LONGTAKE_FAULT")
    run(dataclasses.replace(config, processes=1))
    undisturbed(dataclasses.replace(config, processes=1), tmp_path)


JOB = """
if __name__ == "__main__":
    import sys
    from tools.shard.job import Config, run
    run(Config(source=sys.argv[1], output=sys.argv[2], samples_per_shard=4, processes=2))
"""


@pytest.mark.multiprocess
def test_processes_end_with_a_killed_job(source: Path, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    environment = {**os.environ, "LONGTAKE_FAULT": "shard.publish:sleep=60", "PYTHONPATH": os.getcwd()}
    words = [sys.executable, str(tmp_path / "job.py"), str(source), str(tmp_path / "out")]
    job = subprocess.Popen(words, env=environment)
    try:
        until(lambda: len(list((tmp_path / "out").glob(".tmp-*.tar"))) == 2)
        workers = children(job.pid)
    finally:
        job.kill()
        job.wait()
    assert len(workers) >= 2
    until(lambda: not any(map(alive, workers)))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come about; fails after 30 s, half of what the workers would sleep."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def process_fields(pid: int) -> list[str]:
    """Return state, parent, ... of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(parent: int) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if process_fields(pid)[1:2] == [str(parent)]]


def alive(pid: int) -> bool:
    return process_fields(pid)[:1] not in ([], ["Z"])
