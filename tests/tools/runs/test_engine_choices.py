"""What a run's engine compiles and shares: chosen at the first start, kept after that, another by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config.yaml_files import HEADER
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.errors import UserError
from core.files import write_text
from tools.runs.memory import engine_choices
from tools.runs.memory.engine_choices import alone, settle_engine

CUDA = World(0, 1, 0, torch.device("cuda"))
CPU = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    recorded(tmp_path, "{compile: auto}")
    return tmp_path


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return what says what the compiler lacks, by kind of device."""
    lacking = {"cuda": "", "cpu": ""}
    monkeypatch.setattr(engine_choices, "lacks_compiler", lacking.__getitem__)
    return lacking


def recorded(run: Path, engine: str) -> None:
    write_text(run / "config.yaml", f"{HEADER}train\nengine: {engine}\n")


def start(run: Path, world: World, **fields: Any) -> EngineConfig:
    return settle_engine(EngineConfig(**fields), world, run)


def test_blocks_are_compiled_on_cuda_alone_and_all_is_recorded(run: Path, capsys: Any) -> None:
    assert start(run, CUDA).compile is True
    assert "engine: blocks are compiled; engine.compile=false leaves it" in capsys.readouterr().err
    values = {name: kept["value"] for name, kept in json.loads((run / "choices.json").read_text()).items()}
    assert values == {
        "kind": "deepspeed",
        "zero_stage": 1,
        "shard_ranks": 0,
        "reduce": "each",
        "reduce_dtype": "bf16",
        "precision": "bf16",
        "matmul": "bf16",
        "kernels": "torch",
        "compile": True,
    }
    assert start(run, CPU).compile is True  # it goes on as it began
    (run / "choices.json").unlink()
    assert start(run, CPU).compile is False
    assert start(run, CUDA).compile is False
    assert "compiled" not in capsys.readouterr().err


def test_at_stage_3_the_functions_are(run: Path, capsys: Any) -> None:
    assert start(run, CUDA, zero_stage=3).compiles == "functions"
    assert "engine: functions are compiled" in capsys.readouterr().err


def test_one_line_where_nothing_can_be_compiled(run: Path, compiler: dict[str, str], capsys: Any) -> None:
    compiler["cuda"] = "no C compiler is here"
    assert start(run, CUDA).compile is False
    assert capsys.readouterr().err == "engine: nothing is compiled, since no C compiler is here\n"
    with pytest.raises(UserError, match=r"engine\.compile=True: expected false, since no C compiler is here"):
        start(run, CUDA, compile=True)


def test_a_run_that_began_compiled_says_that_it_goes_on_without(
    run: Path, compiler: dict[str, str], capsys: Any
) -> None:
    start(run, CUDA)
    compiler["cuda"] = "Triton is not installed"
    assert start(run, CUDA).compile is False
    assert "warning: the run began compiled, and continues without, since Triton" in capsys.readouterr().err
    compiler["cuda"] = ""
    assert start(run, CUDA).compile is True


@pytest.mark.parametrize(("engine", "began"), [("{compile: false}", False), ("{zero_stage: 1}", False)])
def test_a_run_that_was_begun_without_goes_on_so_until_it_is_asked_for(
    run: Path, engine: str, began: bool, capsys: Any
) -> None:
    """A record without the field is of a version that compiled nothing by itself."""
    recorded(run, engine)
    assert start(run, CUDA).compile is began
    assert capsys.readouterr().err == ""
    assert start(run, CUDA, compile=True).compile is True
    said = "engine: compile=true, as asked for, and the run began without compiling: sums differ by rounding"
    assert said in capsys.readouterr().err


def test_another_kind_that_is_asked_for_is_told(run: Path, capsys: Any) -> None:
    start(run, CPU, kind="fsdp2", zero_stage=2, reduce="last")
    assert capsys.readouterr().err == ""
    start(run, CPU, kind="fsdp2", zero_stage=2)
    said = "engine: reduce=each, as asked for, and the run began with last: sums differ by rounding\n"
    assert capsys.readouterr().err == said
    start(run, CPU, zero_stage=2)
    assert "engine: kind=deepspeed, as asked for, and the run began with fsdp2" in capsys.readouterr().err


def test_what_cannot_be_compiled_is_not(run: Path, capsys: Any) -> None:
    assert settle_engine(EngineConfig(), CUDA, run, uncompiled="it is odd").compile is False
    assert "engine: nothing is compiled, since it is odd" in capsys.readouterr().err


def test_the_ranks_that_share_the_state_stay_on_other_nodes(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    on_node = {"count": 8}
    monkeypatch.setattr("core.environment.ranks_on_node", lambda ranks: min(ranks, on_node["count"]))
    monkeypatch.setattr(engine_choices, "_lacking", lambda world: "")

    def shares(ranks: int, **fields: Any) -> int:
        world = World(0, ranks, 0, torch.device("cpu"))
        return start(run, world, kind="fsdp2", zero_stage=3, **fields).shard_ranks

    recorded(run, "{kind: fsdp2, zero_stage: 3, shard_ranks: 0}")
    assert shares(16) == 8
    on_node["count"] = 4
    assert shares(16) == 8
    assert shares(12) == 4
    assert (
        "engine: 4 ranks share the state, since 8 ranks as at the start do not divide 12"
        in capsys.readouterr().err
    )
    assert shares(16, shard_ranks=2) == 2


def test_gradients_of_many_ranks_are_added_up_in_fp32(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(engine_choices, "_lacking", lambda world: "")

    def reduces(ranks: int, **fields: Any) -> str:
        return start(run, World(0, ranks, 0, torch.device("cpu")), **fields).reduce_dtype

    recorded(run, "{reduce_dtype: auto}")
    assert reduces(64) == "fp32"
    assert reduces(2) == "fp32"
    assert (
        "in fp32, as at the start; engine.reduce_dtype=bf16 is usual for 2 ranks" in capsys.readouterr().err
    )
    assert reduces(64, reduce_dtype="bf16") == "bf16"
    recorded(run, "{zero_stage: 1}")  # of a version that knew no other
    assert reduces(64) == "bf16"
    assert reduces(64, zero_stage=0) == reduces(2, precision="fp32") == "fp32"
    assert EngineConfig().reduces_in_fp32(63) is False
    with pytest.raises(UserError, match="reduce_dtype=bf16: expected fp32 with kind=fsdp2"):
        EngineConfig(kind="fsdp2", zero_stage=2, reduce_dtype="bf16")


def test_one_rank_without_a_record() -> None:
    assert alone(EngineConfig(zero_stage="auto"), "cuda") == EngineConfig(zero_stage=0, compile=True)
    assert alone(EngineConfig(zero_stage=2), "cpu") == EngineConfig(zero_stage=2, compile=False)


@pytest.mark.parametrize(("kernels", "compiled"), [("draws", True), ("triton", False)])
def test_kernels_of_draws_go_with_compiled_blocks(run: Path, kernels: Any, compiled: bool) -> None:
    assert start(run, CUDA, kernels=kernels).compile is compiled
    assert json.loads((run / "choices.json").read_text())["kernels"]["value"] == kernels


@pytest.mark.parametrize("matmul", ["fp8", "mxfp8"])
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"compile": False}, "engine.compile is false"),
        ({"zero_stage": 3}, "ZeRO stage 3 of engine.kind=deepspeed compiles no whole block"),
        ({"kernels": "triton"}, "engine.kernels=triton stands in the place"),
    ],
)
def test_products_in_8_bits_need_compiled_blocks(
    run: Path, matmul: Any, fields: dict[str, Any], why: str, capsys: Any
) -> None:
    with pytest.raises(UserError, match=rf"engine\.matmul={matmul}: expected bf16, since {why}"):
        start(run, CUDA, matmul=matmul, **fields)
    assert not (run / "choices.json").exists()
    assert start(run, CUDA, matmul=matmul).compiles == "blocks"
    assert start(run, CUDA, matmul=matmul, kind="fsdp2", zero_stage=3).compiles == "blocks"
    capsys.readouterr()
    start(run, CUDA, matmul=matmul, **fields)  # one that has begun goes on
    assert f"warning: {matmul} is slower than bf16 here, since {why}" in capsys.readouterr().err


def test_without_a_compiler_8_bits_are_refused(run: Path, compiler: dict[str, str]) -> None:
    compiler["cuda"] = "no C compiler is here"
    with pytest.raises(UserError, match=r"engine\.matmul=fp8: expected bf16, since no C compiler is here"):
        start(run, CUDA, matmul="fp8")
