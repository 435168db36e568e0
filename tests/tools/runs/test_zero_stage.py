"""`engine.zero_stage=auto`: chosen from memory at the first start, kept after that, another one by name."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from core.config.loading import load
from core.config.yaml_files import read_yaml
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.errors import UserError
from core.files import write_text
from core.memory.free import USABLE, Free
from core.memory.micro_batch import Measured
from core.run.claim import claim_run
from data.dataset.index import Dataset
from tests.data.raw_datasets import make_raw
from tests.tools.train_autoencoder.test_job import FIELDS
from tools.runs.memory import run_memory, zero_stage
from tools.runs.memory.micro_batches import keep_numbers
from tools.runs.memory.zero_stage import foreseen_zero_stage, settle_zero_stage
from tools.train_autoencoder.config import Config
from tools.train_autoencoder.job import make_loader
from tools.train_autoencoder.pixel_memory import memory_of


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def run(raw: Dataset, tmp_path: Path) -> Run:
    return Run(raw, tmp_path / "run")


@pytest.fixture(autouse=True)
def counted_once(raw: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the activations of the network, which is the same in every test, once."""
    measure = run_memory.MemoryOfRun.measure

    def remembered(memory, device, most):
        if not TABLES:
            TABLES.extend(measure(memory, device, most))
        return TABLES

    monkeypatch.setattr(run_memory.MemoryOfRun, "measure", remembered)


TABLES: list[list[Measured]] = []


class Run:
    """A run whose folder is claimed by a config, on so many ranks, of which this is the first."""

    def __init__(self, raw: Dataset, folder: Path) -> None:
        self.raw, self.folder = raw, folder

    def config(self, *fields: str) -> Config:
        named = (f"source={self.raw.folder}", f"output={self.folder}", *FIELDS, "engine.zero_stage=auto")
        return load(Config, overrides=[*named, *fields])

    def begin(self, *fields: str) -> None:
        config = self.config(*fields)
        claim_run(self.folder, config, done="done", keeping=keep_numbers)

    def start(self, ranks: int, *fields: str, dry: bool = False, among: tuple[int, ...] = ()) -> EngineConfig:
        config, world = self.config(*fields), World(0, ranks, 0, torch.device("cpu"))
        loader = make_loader(self.raw, config.data, config.model, world, config.seed, 0)
        with_engine = partial(
            memory_of, config.model, config.objective, config.ema, config.optimizer, loader, 1
        )
        if dry:
            return foreseen_zero_stage(config.engine, with_engine, world, self.folder, among).engine
        return settle_zero_stage(config.engine, with_engine, world, self.folder, among)

    def takes(self, stage: int, ranks: int, *fields: str) -> int:
        """Return the bytes that must be free for a stage, with one sample at once."""
        config, world = self.config(*fields), World(0, ranks, 0, torch.device("cpu"))
        loader = make_loader(self.raw, config.data, config.model, world, config.seed, 0)
        engine = replace(config.engine, zero_stage=stage)
        memory = memory_of(config.model, config.objective, config.ema, config.optimizer, loader, 1, engine)
        (table,) = memory.measure(world.device, None)
        most = max(memory.update_excess(world), *(each.bytes(1) for each in table))
        return int((sum(memory.parts(world).values()) + most) / USABLE) + 1


def having(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(run_memory, "free_memory", lambda *_, **__: Free(size, "the machine"))


def test_one_rank_is_not_sharded_and_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.begin()
    assert run.start(1, dry=True).stage == 0
    assert not (run.folder / "choices.json").exists()
    assert run.start(1).stage == 0
    assert "engine: ZeRO stage 0, since one rank has nothing to share out" in capsys.readouterr().err
    assert json.loads((run.folder / "choices.json").read_text()) == {"zero_stage": {"value": 0, "ranks": 1}}


def test_more_ranks_take_the_least_that_fits(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.begin()
    needed = [run.takes(stage, 4) for stage in range(4)]
    for stage in range(4):
        least = min(s for s in range(4) if needed[s] <= needed[stage])
        having(monkeypatch, needed[stage])
        (run.folder / "choices.json").unlink(missing_ok=True)
        assert run.start(4, dry=True).stage == least
        assert run.start(4).stage == least
        assert "the least that fits" in capsys.readouterr().err
    having(monkeypatch, 1)
    (run.folder / "choices.json").unlink()
    assert run.start(4).stage == needed.index(min(needed))
    assert "which takes least, and does not fit" in capsys.readouterr().err


def test_under_fsdp2_more_nodes_share_the_state_only_where_memory_asks_for_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (run_memory, zero_stage):
        monkeypatch.setattr(module, "ranks_on_node", lambda ranks: min(2, ranks))
    kind, choices = "engine.kind=fsdp2", run.folder / "choices.json"  # whose stages are one without blocks
    run.begin(kind)
    having(monkeypatch, 1 << 40)
    roomy = run.start(4, kind)
    assert (roomy.stage, roomy.shard_ranks) == (2, 0)
    assert "share the state" not in capsys.readouterr().err
    choices.unlink()
    having(monkeypatch, run.takes(2, 4, kind, "engine.shard_ranks=4"))
    for dry in (True, False):
        tight = run.start(4, kind, dry=dry)
        assert (tight.stage, tight.shard_ranks) == (2, 4)
    said = "; 4 ranks share the state, since among those of a node it does not fit"
    assert said in capsys.readouterr().err
    kept = json.loads(choices.read_text())
    assert kept == {"zero_stage": {"value": 2, "ranks": 4}, "shard_ranks": {"value": 4, "ranks": 4}}


def test_a_run_keeps_what_it_chose_on_any_ranks_and_takes_another_by_its_number(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.begin()
    having(monkeypatch, 1 << 40)
    assert run.start(4).stage == 0
    having(monkeypatch, 1)
    for ranks in (4, 2):
        assert run.start(ranks).stage == 0
        assert run.start(ranks, dry=True).stage == 0
    said = capsys.readouterr().err
    assert "with which the run was begun; engine.zero_stage=NUMBER asks for another" in said
    assert "with which the run was begun, chosen for 4 ranks" in said
    assert run.start(2, "engine.zero_stage=2").stage == 2
    assert "ZeRO stage 2, as asked for, and the run began with 0" in capsys.readouterr().err
    assert run.start(2).stage == 0


@pytest.mark.parametrize(("line", "expected"), [("zero_stage: 3", 3), ("", 1)])
def test_a_run_that_was_begun_with_a_number_keeps_it(run: Run, line: str, expected: int) -> None:
    """A record without the field is of a run at stage 1."""
    run.begin()
    record = run.folder / "config.yaml"
    write_text(record, record.read_text().replace("zero_stage: auto", line))
    assert run.start(2).stage == expected
    assert run.start(2, dry=True).stage == expected
    assert not (run.folder / "choices.json").exists()


def test_data_that_has_moved_leaves_the_recorded_stage(run: Run, tmp_path: Path) -> None:
    run.begin("engine.zero_stage=2")
    moved = run.config(f"source={tmp_path / 'elsewhere'}")
    same = lambda _: ({"data": "x"}, {"data": "x"})  # noqa: E731
    claim_run(run.folder, moved, done="done", contents=same, keeping=keep_numbers)
    assert read_yaml(run.folder / "config.yaml")["engine"]["zero_stage"] == 2


def test_a_choice_that_an_earlier_version_recorded_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.begin()
    write_text(run.folder / "zero_stage.json", '{"ranks": 2, "zero_stage": 3}')
    having(monkeypatch, 1 << 40)
    assert run.start(2).stage == 3


@pytest.mark.parametrize("value", ["4", "-1", "least", "1.5"])
def test_other_values_are_refused(run: Run, value: str) -> None:
    expected = rf"engine\.zero_stage={value}: expected auto, or an integer from 0 to 3"
    with pytest.raises(UserError, match=expected):
        run.config(f"engine.zero_stage={value}")


def test_of_an_objective_that_goes_with_some_stages_the_least_of_these_that_fits_is_taken(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.begin()
    needed = [run.takes(stage, 4) for stage in range(3)]
    having(monkeypatch, needed[1])
    assert run.start(4, dry=True, among=(1, 2)).stage == run.start(4, among=(1, 2)).stage == 1
    (run.folder / "choices.json").unlink()
    having(monkeypatch, 1)
    refused = (
        r"^engine.zero_stage=auto: expected a number, or more memory: of 1, 2, which this objective goes "
        r"with, stage \d takes least, .* of a rank, and 0 B are planned with"
    )
    for dry in (True, False):
        with pytest.raises(UserError, match=refused):
            run.start(4, dry=dry, among=(1, 2))
    assert run.start(1, among=(1, 2)).stage == 1
