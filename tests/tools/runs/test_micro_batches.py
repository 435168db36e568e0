"""How many samples a rank takes at once: chosen from memory, kept with the run, said."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.checkpoint.store import CheckpointStore
from core.config.loading import load
from core.config.yaml_files import read_yaml
from core.distributed.ranks import World
from core.errors import UserError
from core.files import write_text
from core.memory.free import Free
from core.records import read_rows
from core.run.claim import claim_run
from data.dataset.index import Dataset
from data.loading.pixels import PixelLoader
from tests.data.raw_datasets import make_raw
from tests.data.samples import image_bytes, picture
from tests.tools.train_autoencoder.test_job import FIELDS
from tools.runs.memory import run_memory
from tools.runs.memory.micro_batches import keep_numbers, settle_micro_batches
from tools.shard import job as shard
from tools.train_autoencoder.config import Config
from tools.train_autoencoder.job import make_loader, plan, run
from tools.train_autoencoder.pixel_memory import memory_of

GIB = 2**30
Machine = Callable[[int], None]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return what makes a machine have so many bytes free for a rank."""

    def having(size: int) -> None:
        found = Free(size, "the machine")
        monkeypatch.setattr(run_memory, "free_memory", lambda *_, **__: found)

    return having


def config(raw: Dataset, folder: Path, *fields: str) -> Config:
    return load(Config, overrides=[f"source={raw.folder}", f"output={folder / 'run'}", *FIELDS, *fields])


def begin(found: Config) -> None:
    """Claim the run's folder as its job does."""
    claim_run(Path(found.output), found, done="done", keeping=keep_numbers)


def loader_of(found: Config, world: World) -> PixelLoader:
    dataset = Dataset(Path(found.source))
    return make_loader(dataset, found.data, found.model, world, found.seed, found.engine.most_at_once)


def memory_of_run(found: Config, loader: PixelLoader) -> run_memory.MemoryOfRun:
    sections = found.model, found.objective, found.ema, found.optimizer
    return memory_of(*sections, loader, found.data.prefetch, found.engine)


def settled(found: Config, ranks: int = 1) -> list[int]:
    """Return the most samples of each shape at once, after a start of the run on so many ranks."""
    world = World(0, ranks, 0, torch.device("cpu"))
    loader = loader_of(found, world)
    settle_micro_batches(memory_of_run(found, loader), world, Path(found.output))
    return [loader.plan.micro_batches(number)[0] for number in range(len(loader.plan.buckets))]


def needed(found: Config, sizes: list[int]) -> int:
    """Return the bytes that must be free, so that just these sizes fit into 80 % of them."""
    world = World(0, 1, 0, torch.device("cpu"))
    memory = memory_of_run(found, loader_of(found, world))
    table = memory.measure(world.device, None)[0]
    most = max(measured.bytes(size) for measured, size in zip(table, sizes, strict=True))
    return int((sum(memory.parts(world).values()) + most) / 0.8) + 1


def test_more_memory_never_takes_fewer_samples_and_all_take_whole_shares(
    raw: Dataset, tmp_path: Path, machine: Machine
) -> None:
    found = config(raw, tmp_path, "data.group_size=24")
    begin(found)
    seen = []
    for size in (1, needed(found, [2, 1]), needed(found, [6, 2]), 24 * GIB):
        machine(size)
        (tmp_path / "run" / "micro_batches.json").unlink(missing_ok=True)
        seen.append(settled(found))
        shares = loader_of(found, World(0, 1, 0, torch.device("cpu"))).plan
        assert [shares.share(n) % most for n, most in enumerate(seen[-1])] == [0, 0]
    assert seen == sorted(seen)
    assert seen[0] == [1, 1]
    assert seen[-1] == [24, 8]  # of the shapes' groups
    assert seen[0] < seen[1] < seen[2]


def test_pixels_that_wait_on_a_gpu_are_counted_as_bytes(raw: Dataset, tmp_path: Path) -> None:
    """Three steps of 24 images or 8 clips of five frames: one is computed with and two are read ahead."""
    found = config(raw, tmp_path, "data.group_size=24")
    waiting = {}
    for kind in ("cpu", "cuda"):
        world = World(0, 1, 0, torch.device(kind))
        loader = loader_of(found, World(0, 1, 0, torch.device("cpu")))
        (waiting[kind],) = memory_of_run(found, loader).read_ahead(world).values()
        shapes = zip(loader.plan.group_sizes, loader.buckets, strict=True)
    assert waiting["cuda"] == 3 * max(size * 3 * math.prod(bucket) for size, bucket in shapes)
    assert waiting["cpu"] == 4 * waiting["cuda"]


def test_each_shape_has_its_own(raw: Dataset, tmp_path: Path, machine: Machine) -> None:
    """Clips of five frames take five times the memory of an image."""
    found = config(raw, tmp_path, "data.group_size=24")
    begin(found)
    machine(needed(found, [4, 1]))
    images, clips = settled(found)
    assert images > clips


def test_a_run_keeps_what_it_chose_and_says_where_that_no_longer_fits(
    raw: Dataset, tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    found = config(raw, tmp_path)
    begin(found)
    machine(needed(found, [4, 2]))
    chosen = settled(found)
    kept = json.loads((tmp_path / "run" / "micro_batches.json").read_text())
    assert kept["ranks"] == 1
    assert [size for _, size in kept["sizes"]["train"]] == chosen
    assert "warning" not in capsys.readouterr().err
    machine(24 * GIB)
    assert settled(found) == chosen
    machine(1)
    assert settled(found) == chosen
    told = capsys.readouterr().err
    assert re.search(r"the run keeps them, since its bits depend on them: engine.micro_batch=1 goes on", told)


def test_other_ranks_choose_anew_and_say_so(
    raw: Dataset, tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    found = config(raw, tmp_path)
    begin(found)
    machine(24 * GIB)
    whole = settled(found)
    assert [size // 2 for size in whole] == settled(found, ranks=2)
    assert "chosen again: chosen for 1 rank, and there are 2; order and draws stay" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "micro_batches.json").read_text())["ranks"] == 2


@pytest.mark.parametrize(
    ("line", "expected"), [("micro_batch: 0", [8, 8]), ("micro_batch: 3", [3, 3]), ("", [8, 8])]
)
def test_an_older_run_goes_on_as_it_was_begun(
    raw: Dataset,
    tmp_path: Path,
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    line: str,
    expected: list[int],
) -> None:
    """With the number in its record, or a rank's whole share where that says 0 or nothing."""
    found = config(raw, tmp_path)
    begin(found)
    record = Path(found.output) / "config.yaml"
    write_text(record, record.read_text().replace("micro_batch: auto", line))
    begin(found)
    machine(1)
    assert settled(found) == expected
    assert "with which the run was begun" in capsys.readouterr().err
    assert not (tmp_path / "run" / "micro_batches.json").exists()


def test_data_that_has_moved_leaves_the_recorded_number(raw: Dataset, tmp_path: Path) -> None:
    found = config(raw, tmp_path)
    begin(config(raw, tmp_path, "engine.micro_batch=3"))
    begin(found)
    moved = config(raw, tmp_path, f"source={tmp_path / 'elsewhere'}")
    same = lambda _: ({"data": "x"}, {"data": "x"})  # noqa: E731
    claim_run(Path(moved.output), moved, done="done", contents=same, keeping=keep_numbers)
    record = read_yaml(Path(moved.output) / "config.yaml")
    assert record["source"] == str(tmp_path / "elsewhere")
    assert record["engine"]["micro_batch"] == 3


def test_what_has_not_even_one_sample_s_memory_is_said(
    raw: Dataset, tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    found = config(raw, tmp_path)
    begin(found)
    machine(1)
    assert settled(found) == [1, 1]
    told = capsys.readouterr().err
    assert re.search(r"warning: 1 sample of pixels 1x16x16 at once take .* and may run out of memory", told)


@pytest.mark.parametrize("value", ["-1", "fast", "1.5", "true", "[auto]"])
def test_other_values_are_refused(raw: Dataset, tmp_path: Path, value: str) -> None:
    expected = re.escape(f"engine.micro_batch={value}: expected auto, or an integer, at least 0")
    with pytest.raises(UserError, match=expected):
        config(raw, tmp_path, f"engine.micro_batch={value}")


def test_measuring_changes_no_bit_of_training(
    raw: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All fits here, so both runs take whole shares; one has counted its memory in both ways."""
    steps = ("trainer.steps=2", "engine.device=cpu", "metrics.log_every=1", "ema.decay=0.5")
    measure = run_memory.MemoryOfRun.measure

    def in_both_ways(self, *arguments):
        found = measure(self, *arguments)
        monkeypatch.setattr(run_memory, "SMALL", 0)
        assert measure(self, *arguments) == found
        return found

    monkeypatch.setattr(run_memory.MemoryOfRun, "measure", in_both_ways)
    states = []
    for name, size in (("auto", "auto"), ("whole", "0")):
        run(config(raw, tmp_path, f"output={tmp_path / name}", *steps, f"engine.micro_batch={size}"))
        last = CheckpointStore(tmp_path / name / "checkpoints").latest()
        assert last is not None
        losses = [(row["loss"], row["grad_norm"]) for row in read_rows(tmp_path / name / "metrics.jsonl")]
        states.append((losses, [path.read_bytes() for path in sorted(last.glob("*.safetensors"))]))
    assert states[0] == states[1]


def test_the_second_step_of_the_readme_fits_a_machine_of_24_gib(tmp_path: Path, machine: Machine) -> None:
    """As typed there: a group of 256 pictures of 256 x 256, which took about 72 GB in one micro-batch."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(30):
        (photos / f"{number}.png").write_bytes(image_bytes(picture(256, 256, seed=number)))
    shard.run(shard.Config(source=str(photos), output=str(tmp_path / "raw")))
    machine(24 * GIB)
    found = load(Config, overrides=[f"source={tmp_path / 'raw'}", f"output={tmp_path / 'autoencoder'}"])
    text = "\n".join(plan(found))
    assert "pixels 1x256x256" in text
    assert re.search(r"hours: [\d.e-]+ steps per second by single samples timed here on cpu, so ", text)
    total = re.search(r"memory of a rank: ([\d.]+) GiB \(weights .*, activations [\d.]+ GiB\)", text)
    at_once = re.search(r"groups of 256 = 1 rank x 256, at most (\d+) at once", text)
    assert total
    assert at_once
    assert float(total[1]) <= 0.8 * 24
    assert 32 <= int(at_once[1]) < 256
    assert 256 % int(at_once[1]) == 0
