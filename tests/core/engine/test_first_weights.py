"""Networks whose weights are made by the engine. Run: pytest tests/core/engine/test_first_weights.py"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.core.engine import fake_start_run, first_weights_run
from tests.core.ranks import run_ranks


@pytest.mark.multiprocess
@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 4))])
def test_engines_start_with_the_bits_of_a_network_built_as_usual(ranks: int, tmp_path: Path) -> None:
    run_ranks(ranks, first_weights_run.__file__, str(tmp_path / "result.json"))
    found = json.loads((tmp_path / "result.json").read_text())
    assert len(found) == 2 * len(first_weights_run.ENGINES)
    assert {name: result for name, result in found.items() if not all(result)} == {}


def started(folder: Path, *words: object) -> dict[str, Any]:
    """Start a rank of a fake world; words: kind, stage, ranks, width, depth."""
    result = folder / "result.json"
    command = [sys.executable, fake_start_run.__file__, *map(str, words), str(result)]
    subprocess.run(command, check=True, timeout=300)
    return json.loads(result.read_text())  # type: ignore[no-any-return]


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("fsdp2", 3),
        pytest.param("deepspeed", 1, marks=pytest.mark.full),
        ("deepspeed", 2),
        pytest.param("deepspeed", 3, marks=pytest.mark.full),
    ],
)
def test_no_rank_holds_more_in_fp32_than_its_shard_and_one_parameter(
    kind: str, stage: int, tmp_path: Path
) -> None:
    found = started(tmp_path, kind, stage, 64, 512, 2)
    assert found["masters"] == pytest.approx(4 * found["numbers"] / 64, rel=0.05)
    assert found["peak"] <= found["stays"] + found["largest"]
    assert found["stays"] < 6 * found["masters"]  # moments, a gradient, and what libraries keep beside
    if (kind, stage) != ("deepspeed", 3):  # which shares out whole parameters, and then draws its shard
        assert found["drawn"] <= found["masters"] / 4


@pytest.mark.multiprocess
def test_fsdp2_starts_seven_thousand_million_numbers_on_1024_ranks_in_300_mib(tmp_path: Path) -> None:
    found = started(tmp_path, "fsdp2", 3, 1024, 3840, 26)
    assert found["numbers"] > 6.9e9
    assert found["grown"] < 300 * 2**20
    assert found["seconds"] < 60  # 5 of a core alone; drawing all numbers would take 40
