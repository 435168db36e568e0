"""Kernels against their plain twins: in Triton's interpreter, compiled ahead of time, and on a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from core.root import ROOT
from models.denoisers.dit import DiTConfig
from models.kernels.kinds import put_in, use_kernels
from models.layers import transformer
from tests.fresh_python import imported_by
from tests.tools.train.mixing_cases import CASES, apart, noisy

HERE = Path(__file__).parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def ran(program: str, *arguments: str, **environ: str) -> dict[str, Any]:
    """Return what a program prints, in a process of its own; skip where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        assert os.environ.get("LONGTAKE_KERNELS") != "required", (
            "Triton, the extra `kernels`, is not installed"
        )
        pytest.skip("needs Triton, the extra kernels")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(HERE / program), *arguments]
    found = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": path} | environ, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return dict(json.loads(found.stdout.splitlines()[-1]))


def test_kernels_equal_their_twins_in_the_interpreter() -> None:
    found = ran("interpreted.py")
    assert len(found["fp32"]) == len(found["bf16"]) == 16
    for name, errors in found["fp32"].items():
        assert max(errors) < 1e-6, name
    for name, errors in found["bf16"].items():
        assert max(errors) < 2.0**-7, name  # one rounding, which the interpreter does towards zero
    for limit, cases in zip((1e-6, 2.0**-7), found["mixing"], strict=True):
        assert len(cases) == 15
        for name, errors in cases.items():
            assert {"x_t", "target"} <= set(errors)
            assert all(error < limit for error in errors.values()), (name, errors)
            assert errors["target"] < 1e-6, (name, errors)  # in fp32 whatever the network computes in
    assert len(found["draws"]) == 6
    for name, (is_equal, error) in found["draws"].items():
        assert is_equal, name
        assert error < 1e-6, name


def test_kernels_are_compiled_for_two_generations_without_a_gpu(tmp_path: Path) -> None:
    found = ran("compiled.py", "90", "100", TRITON_CACHE_DIR=str(tmp_path))
    assert len(found) == 2 * 11
    assert all(size > 1000 for size in found.values())


def test_they_are_asked_for_by_name_where_they_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    network = DiTConfig(width=16, depth=1, heads=2, num_classes=3).build()
    for kind in ("draws", "triton"):
        with pytest.raises(UserError, match=f"kernels={kind}: expected torch without a CUDA device"):
            use_kernels(kind, network, CPU)  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="since Triton is not installed"):
        use_kernels("draws", network, CUDA)


def test_a_network_calls_what_is_put_in_the_place_of_its_functions() -> None:
    called = []

    def normal(*given: torch.Tensor) -> torch.Tensor:
        called.append(len(given))
        return transformer.norm_modulate(*given)

    network = DiTConfig(width=16, depth=2, heads=2, num_classes=3).build()
    put_in(network, {"norm_modulate": normal})
    from models.denoisers.network import example_inputs

    network(*example_inputs(network.config, (1, 4, 1, 4, 4), CPU))
    assert called == [3, 3, 3]  # before attention in each block, and at the end


def test_nothing_else_imports_triton() -> None:
    modules, _ = imported_by("import launch.cli, tools.train.claimed_run, models.kernels.kinds")
    assert "triton" not in modules


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_their_twins_on_a_gpu(dtype: torch.dtype) -> None:
    from models.kernels import adaln

    x, y = (torch.randn(4, 256, 1152, device="cuda", dtype=dtype) for _ in range(2))
    product = torch.randn(4, 1, 6 * 1152, device="cuda", dtype=dtype)
    gate, shift, scale = product.chunk(6, -1)[:3]
    inputs = [tensor.detach().requires_grad_() for tensor in (x, gate, y, shift, scale)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found, plain = adaln.gated_norm_modulate(*inputs), transformer.gated_norm_modulate(*exact)
    slopes = [torch.randn_like(x) for _ in found]
    pairs = [*zip(found, plain, strict=True)]
    pairs += zip(
        torch.autograd.grad(found, inputs, slopes),
        torch.autograd.grad(plain, exact, [slope.double() for slope in slopes]),
        strict=True,
    )
    for got, want in pairs:
        limit = 2e-6 if dtype == torch.float32 else 2.0**-7
        assert float((got.double() - want).abs().max() / want.abs().max()) < limit


@pytest.mark.cuda
@pytest.mark.parametrize("name", CASES)
def test_noisy_batches_on_a_gpu_are_those_of_the_cpu(name: str) -> None:
    from core.kernels.draw_kernels import TritonDraws
    from core.kernels.mixing_kernel import TritonMixer

    case = CASES[name]
    plain = noisy(case, None, None)
    by_tensors = apart(noisy(case, None, None, CUDA), plain)
    assert max(by_tensors.values()) < 2e-6, by_tensors
    for dtype, limit in ((torch.float32, 2e-6), (torch.bfloat16, 2.0**-8)):
        errors = apart(noisy(case, TritonDraws(), TritonMixer(dtype), CUDA), plain)
        assert all(error < limit for error in errors.values()), (dtype, errors)
        assert errors["target"] < 2e-6, (dtype, errors)


@pytest.mark.cuda
def test_draws_on_a_gpu_are_those_of_the_cpu() -> None:
    from core import draws
    from core.draws import Draws
    from core.kernels.draw_kernels import TritonDraws

    ids = torch.arange(300) * 12345678901
    there = Draws(5, 9, ids, torch.arange(300))
    draws.on_gpu = TritonDraws()
    try:
        here = there.to(CUDA)
        assert torch.equal(here.bits("noise", 4097).cpu(), there.bits("noise", 4097))
        found = here.normal("noise", (4, 32, 32)).cpu()
    finally:
        draws.on_gpu = None
    assert float((found - there.normal("noise", (4, 32, 32))).abs().max()) < 2e-6
