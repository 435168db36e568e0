"""Networks compiled once for each shape of samples. Run: pytest tests/tools/sample/test_compiled.py"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.diffusion.sampling import SamplerConfig
from core.errors import UserError
from tests.tools.made_runs import make_run
from tools.sample import job as sample
from tools.sample.config import FilesConfig
from tools.sample.networks import compiling

REQUESTS = "class,height,width,count,guidance\ncat,16,16,5,2\ncat,16,16,3,1\ndog,24,16,1,2\n"
SHAPES = 3  # 2 samples under 2 conditions, 2 under one, and 1 under 2 of another size


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "requests.csv").write_text(REQUESTS)
    torch.compiler.reset()
    return make_run(tmp_path / "run", monkeypatch)


def made(run: Path, name: str, **fields: Any) -> list[torch.Tensor]:
    output = run.parent / name
    known: dict[str, Any] = {"source": str(run), "output": str(output), "device": "cpu", "batch": 2}
    known |= {"requests": str(run.parent / "requests.csv"), "sampler": SamplerConfig(steps=2)}
    known |= {"files": FilesConfig(kind="png", latents=True), "trajectory": True}
    sample.run(sample.Config(**known, **fields))
    return [load_file(path)["latents"] for path in sorted(output.glob("*.safetensors"))]


def counting(graphs: list[Any]) -> Callable[..., Any]:
    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend


def test_each_shape_is_compiled_once_and_samples_stay(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, graphs = made(run, "plain"), list[Any]()
    monkeypatch.setattr(compiling, "BACKEND", counting(graphs))
    found = made(run, "compiled", compile=True)
    assert len(graphs) == SHAPES
    assert len(found) == len(plain) == 9
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_where_the_compiler_fails_a_line_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        raise NotImplementedError("no such product")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    assert len(made(run, "compiled", compile=True)) == 9
    lines = [line for line in capfd.readouterr().err.splitlines() if "not compiled from here on" in line]
    assert len(lines) == 1
    assert "no such product" in lines[0]


def test_auto_compiles_on_cuda_where_a_compiler_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiling, "lacks_compiler", lambda device: "")
    assert compiling.settled("auto", "cuda", shares_tokens=False)
    assert not compiling.settled("auto", "cpu", shares_tokens=False)
    assert not compiling.settled("auto", "cuda", shares_tokens=True)
    with pytest.raises(UserError, match="compile=true: expected auto or false with sequence_parallel"):
        compiling.settled(True, "cuda", shares_tokens=True)
    monkeypatch.setattr(compiling, "lacks_compiler", lambda device: "Triton is not installed")
    assert not compiling.settled("auto", "cuda", shares_tokens=False)
    assert "networks are not compiled, since Triton is not installed" in capfd.readouterr().err
