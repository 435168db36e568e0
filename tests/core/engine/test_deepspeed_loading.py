"""Starting without builds. Run: pytest tests/core/engine/test_deepspeed_loading.py"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.engine.zero.deepspeed_loading import load_deepspeed
from core.root import ROOT

PROGRAM = """
import sys
from pathlib import Path
from core.distributed import ranks
from tests.core.toy_run import toy_trainer
assert "deepspeed" not in sys.modules  # imported by the engine, once the device is known
for stage in (1, 3):
    world = ranks.start("cpu", 60)
    toy_trainer(Path(sys.argv[1]) / str(stage), world, zero_stage=stage, steps=2).fit()
    ranks.stop(world)
assert "deepspeed" in sys.modules
assert "torch._inductor.compile_fx" not in sys.modules
"""


def test_what_was_imported_for_cpus_computes_on_no_gpu() -> None:
    """It would put its buffers on the device that it was imported for."""
    load_deepspeed(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="imported for cpu, and this process computes on cuda"):
        load_deepspeed(torch.device("cuda", 0))


def test_nothing_is_compiled_and_a_world_can_follow_another(tmp_path: Path) -> None:
    """Compilers that report their callers stand first in PATH, and torch's extension folder stays empty."""
    tools, calls, extensions = tmp_path / "bin", tmp_path / "calls", tmp_path / "extensions"
    tools.mkdir()
    for name in ("g++", "gcc", "c++", "cc", "clang++", "ninja", "nvcc"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >> {calls}\nexit 1\n")
        (tools / name).chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "DS_ACCELERATOR")}
    environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "TORCH_EXTENSIONS_DIR": str(extensions)}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "runs")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not calls.exists(), calls.read_text()
    assert not extensions.exists() or not list(extensions.rglob("*"))
    assert "Warning" not in done.stderr
