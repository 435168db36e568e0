"""Writing and reading on one rank. Run: pytest tests/core/checkpoint/test_checkpoint.py"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.averages.ema import Ema, EmaConfig
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.restore import load, resume
from core.checkpoint.snapshot import take
from core.checkpoint.store import CheckpointStore
from core.checkpoint.tensor_file import load_tensors, open_tensors
from core.checkpoint.weights import load_weights
from core.checkpoint.writer import write_checkpoint
from core.distributed.ranks import World
from core.engine.engine import Engine
from core.engine.network import MAIN, Network
from core.errors import UserError, WorkError
from core.files import sealed
from tests.core.toy_run import ToyModel, toy_engine, toy_trainer


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 4 steps with checkpoints after 2 and 4."""
    folder = tmp_path_factory.mktemp("run")
    toy_trainer(folder, world, steps=4, save_every=2, zero_stage=1).fit()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def newest(run: Path) -> Path:
    path = CheckpointStore(run / "checkpoints").latest()
    assert path is not None
    return path


def state_of(engine: Engine, ema: Ema) -> dict[str, Any]:
    return {
        "weight": engine.full_state(),
        **{kind: engine.full_state(tensors) for kind, tensors in engine.moments().items()},
        **{f"ema-{name}": engine.full_state(tensors) for name, tensors in ema.averages.items()},
    }


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_everything_is_restored(trained: Path, world: World, stage: int) -> None:
    engine = toy_engine(world, seed=1, zero_stage=stage)  # other initial weights
    ema = Ema(EmaConfig(decay=0.9, extra_decays=(0.5,)), engine.masters)
    state = load(newest(trained), {MAIN: Network(engine, ema)})
    reader = CheckpointReader(newest(trained))
    for kind, tensors in state_of(engine, ema).items():
        expected = reader.full(kind)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in tensors), kind
    fixed = engine.fixed()
    assert all(torch.equal(fixed[name], value) for name, value in reader.fixed().items())
    assert engine.updates == state["updates"] == 4
    assert (state["step"], state["samples_seen"], state["skipped"]) == (4, 32, 0)
    assert state["identity"] == {"seed": 7, "data": "toy"}


def test_weights_load_into_a_plain_network(trained: Path) -> None:
    raw, average, half = (load_weights(trained, which) for which in ("raw", "ema", "0.5"))
    for weights in (raw, average, half):
        ToyModel().load_state_dict(weights)
    assert not torch.equal(raw["first.weight"], average["first.weight"])
    assert torch.equal(load_weights(newest(trained), "0.9")["first.weight"], average["first.weight"])
    assert torch.equal(load_weights(trained / "checkpoints", "ema")["first.weight"], average["first.weight"])
    assert raw["calls"].tolist() == [4.0] * 3


def test_no_pickle_and_a_manifest_of_all_files(trained: Path) -> None:
    path = newest(trained)
    manifest = json.loads((path / "manifest.json").read_text())
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    assert {p.name for p in path.iterdir()} == set(manifest["files"]) | {"manifest.json"}


@pytest.mark.parametrize("which", ["0.99", "EMA"])
def test_an_average_that_is_not_there_is_named(trained: Path, which: str) -> None:
    with pytest.raises(UserError, match=r"one of raw, ema, 0\.9, 0\.5"):
        load_weights(trained, which)


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


DAMAGES = [
    pytest.param(damage_cut, r"has \d+ bytes, manifest.json says \d+", id="cut"),
    pytest.param(damage_flip, "SHA-256", id="flip"),
    pytest.param(Path.unlink, "is missing", id="missing"),
    pytest.param(lambda path: path.write_bytes(b""), "has 0 bytes", id="empty"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("name", ["rank-00000.safetensors", "state.json"])
def test_damage_is_refused_with_the_file_named(run: Path, damage: Any, message: str, name: str) -> None:
    damage(newest(run) / name)
    with pytest.raises(DamagedCheckpoint, match=f"{name}.*{message}"):
        load_weights(run)


@settings(max_examples=40)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), number=st.integers(0, 99))
def test_a_bit_anywhere_in_any_file_is_found(trained: Path, place: float, bit: int, number: int) -> None:
    folder = newest(trained)
    names = sorted(path.name for path in folder.iterdir())  # receipts, state and manifest too
    path = folder / names[number % len(names)]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(damaged))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(DamagedCheckpoint, match=path.name):
            load_weights(trained)
    finally:
        path.write_bytes(whole)


def test_a_bit_anywhere_in_the_manifest_is_found(trained: Path) -> None:
    path = newest(trained) / "manifest.json"
    whole = path.read_bytes()
    try:
        for place in range(0, len(whole), 5):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            with pytest.raises(DamagedCheckpoint, match=r"manifest\.json"):
                CheckpointReader(path.parent)
    finally:
        path.write_bytes(whole)


def test_another_format_is_refused_as_such(run: Path) -> None:
    """It is refused without a hash of its own, as in format 1, and with one, as a later format may have."""
    path = newest(run) / "manifest.json"
    manifest = json.loads(path.read_text())
    first = {name: value for name, value in manifest.items() if name != "sha256"} | {"format": 1}
    for other in (first, sealed({**manifest, "format": 99})):
        path.write_text(json.dumps(other))
        with pytest.raises(WorkError, match=rf"format {other['format']}; this version reads") as caught:
            CheckpointReader(path.parent)
        assert not isinstance(caught.value, DamagedCheckpoint)


def test_a_damaged_newest_falls_back_loudly(
    run: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_cut(newest(run) / "rank-00000.safetensors")
    engine = toy_engine(world, zero_stage=2)
    state = resume(CheckpointStore(run / "checkpoints"), {MAIN: Network(engine)})
    assert state is not None
    assert state["step"] == 2
    said = capsys.readouterr().err
    assert "rank-00000.safetensors has" in said
    assert "falling back" in said
    assert (run / "checkpoints" / "damaged-step-00000004.local.1").is_dir()


def test_without_a_whole_one_the_run_does_not_start_over(run: Path, world: World) -> None:
    for entry in CheckpointStore(run / "checkpoints").complete():
        damage_flip(entry.path / "rank-00000.safetensors")
    with pytest.raises(WorkError, match="none is complete now"):
        resume(CheckpointStore(run / "checkpoints"), {MAIN: Network(toy_engine(world))})


def test_a_file_of_another_step_is_refused(run: Path) -> None:
    older, newer = sorted((run / "checkpoints").glob("step-*"))
    shutil.copy(older / "rank-00000.safetensors", newer / "rank-00000.safetensors")
    with pytest.raises(DamagedCheckpoint, match="SHA-256"):
        load_weights(newer)


def test_a_folder_without_manifest_is_no_checkpoint(run: Path) -> None:
    path = newest(run)
    (path / "manifest.json").unlink()
    with pytest.raises(WorkError, match="not a complete checkpoint"):
        load_weights(path)
    assert load_weights(run)["calls"].tolist() == [2.0] * 3  # the run itself has another


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint="):
        load_weights(tmp_path)


def test_a_network_of_another_shape_is_refused(trained: Path, world: World) -> None:
    engine = toy_engine(world)
    engine.module.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"extra\.bias is \(2,\) in the network and None"):
        load(newest(trained), {MAIN: Network(engine)})


def test_a_failure_publishes_nothing(world: World, tmp_path: Path) -> None:
    def taken_over() -> None:
        raise WorkError("lost the run")

    engine = toy_engine(world)
    path = tmp_path / "step-00000001.local.1"
    with pytest.raises(WorkError, match=r"step-00000001\.local\.1 was not written: rank 0: .*lost the run"):
        write_checkpoint(
            path, take({MAIN: Network(engine)}, {"step": 1}, None), number=1, may_commit=taken_over
        )
    assert not path.exists()


def test_a_pipe_in_place_of_tensors_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "rank-00000.safetensors")
    for read in (open_tensors, load_tensors):
        with pytest.raises(DamagedCheckpoint, match="not a regular file"):
            read(path)
