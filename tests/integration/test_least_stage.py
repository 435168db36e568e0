"""`engine.zero_stage=auto` trains at stages 2 and 3 where memory is short, and goes on with them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from core.records import read_rows
from tests.integration.tiny_run import command, finish_ranks, make_autoencoder, make_latents

pytestmark = [pytest.mark.multiprocess, pytest.mark.full]

# As a machine with so much memory would answer, and, for stage 3, of a network of which not all weights stay
# gathered. One number of bytes after another is tried until the stage is the one that is wanted.
PROGRAM = """
import sys
from core.memory import state
from core.memory.free import Free
from core.memory.fitting import least_stage
from tools.runs.memory import run_memory, zero_stage

wanted = int(sys.argv.pop(1))
if wanted == 3:
    state.LIVE = 1000
have = [1 << 50]
run_memory.free_memory = lambda *_, **__: Free(have[0], "the machine")
fits = zero_stage._fits
def short(engine, memory_with, world, usable):
    found = fits(engine, memory_with, world, usable)
    needs = {stage: each.bytes for stage, each in found.items()}
    assert all(needs[wanted] < needs[stage] for stage in range(wanted)), needs
    have[0] = int(needs[wanted] / zero_stage.USABLE) + 2
    return fits(engine, memory_with, world, int(zero_stage.USABLE * have[0]))
if sys.argv.pop(1) == "short":
    zero_stage._fits = short

from launch.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("stage", [2, 3])
def test_the_stage_that_memory_leaves_is_trained_with_and_kept(stage: int, tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder")
    cache = make_latents(tmp_path / "latents", tmp_path / "autoencoder")
    program, run = tmp_path / "program.py", tmp_path / "run"
    program.write_text(PROGRAM)
    fields = ("model.width=128", "engine.zero_stage=auto", "engine.micro_batch=1", "trainer.save_every=2")

    def train(memory: str, *more: str) -> str:
        job = command(cache, run, *fields, *more)[3:]
        found = finish_ranks(2, [sys.executable, str(program), str(stage), memory, *job])
        assert [status for status, _ in found] == [0, 0], found
        return found[0][1]

    said = train("short", "trainer.steps=2")
    assert f"engine: ZeRO stage {stage}, the least that fits" in said
    assert json.loads((run / "choices.json").read_text())["zero_stage"] == {"value": stage, "ranks": 2}
    said = train("plenty", "trainer.steps=4")
    assert f"engine: ZeRO stage {stage}, with which the run was begun" in said
    assert "continuing after step 2" in said
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
