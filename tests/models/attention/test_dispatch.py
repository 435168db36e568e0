"""Compare every backend that runs here with attention written out in float64, forward and backward."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from core.errors import UserError
from models.attention import backends as module
from models.attention.dispatch import (
    BACKENDS,
    Backend,
    attention,
    available,
    choose,
    unavailable,
)

HALF_ONLY = ("sdpa_cudnn", "sdpa_flash", *module.FLASH_MODULES)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def _inputs(head_width: int, device: str, dtype: torch.dtype, keys: int = 40) -> list[Tensor]:
    generator = torch.Generator().manual_seed(head_width)
    shapes = [(2, 33, 3, head_width), (2, keys, 3, head_width), (2, keys, 3, head_width)]
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def _with_gradients(backend: str, inputs: list[Tensor], lengths: Tensor | None) -> list[Tensor]:
    out = attention(*inputs, backend=cast(Backend, backend), lengths=lengths)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device).view_as(out)
    return [out, *torch.autograd.grad((out.double() * weight).sum(), inputs)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("head_width", [64, 72])
def test_every_backend_agrees_with_float64(
    head_width: int, masked: bool, dtype: torch.dtype, device: str
) -> None:
    inputs = _inputs(head_width, device, dtype)
    lengths = torch.tensor([40, 7], device=device) if masked else None
    truth = _with_gradients("math", [x.detach().double().requires_grad_() for x in inputs], lengths)
    names = available(device, masked=masked)
    assert {"auto", "math", "chunked", "sdpa"} <= set(names)
    for name in names:
        if dtype == torch.float32 and name in HALF_ONLY and device == "cuda":
            continue  # these kernels exist in half precision only
        for got, want in zip(_with_gradients(name, inputs, lengths), truth, strict=True):
            error = (got.double() - want).norm() / want.norm()
            assert error < (1e-6 if dtype == torch.float32 else 1e-2), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_width", [64, 72])
def test_packed_samples_attend_to_themselves_alone(head_width: int, dtype: torch.dtype, device: str) -> None:
    sizes = (5, 64, 1, 31)
    generator = torch.Generator().manual_seed(head_width)
    inputs = [
        torch.randn(1, 101, 3, head_width, generator=generator).to(device, dtype).requires_grad_()
        for _ in range(3)
    ]

    def gradients(backend: str, inputs: list[Tensor]) -> list[Tensor]:
        out = attention(*inputs, backend=cast(Backend, backend), sizes=sizes)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=device).view_as(out)
        return [out, *torch.autograd.grad((out.double() * weight).sum(), inputs)]

    wide = [x.detach().double().requires_grad_() for x in inputs]
    truth = gradients("math", wide)
    start = 0
    for size in sizes:
        part = [x[:, start : start + size] for x in wide]
        alone = attention(part[0], part[1], part[2], backend="math")
        torch.testing.assert_close(truth[0][:, start : start + size], alone)
        start += size
    for name in available(device):
        if dtype == torch.float32 and name in HALF_ONLY and device == "cuda":
            continue  # these kernels exist in half precision only
        for got, want in zip(gradients(name, inputs), truth, strict=True):
            error = (got.double() - want).norm() / want.norm()
            assert error < (1e-6 if dtype == torch.float32 else 1e-2), name


@pytest.mark.parametrize("device", DEVICES)
def test_another_thread_attends_as_it_likes_meanwhile(device: str) -> None:
    """A text encoder needs the kernel that takes dropout while the network is within one that does not.

    By flags of the process, as `sdpa_kernel` sets them, it gets "No available kernel".
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    query, key, value = _inputs(64, device, dtype)
    found: list[object] = []

    def encode() -> None:
        heads = query.detach().double().transpose(1, 2)
        try:
            found.append(F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.1).shape)
        except RuntimeError as error:
            found.append(error)

    class Meanwhile(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "attention" in str(func):
                thread = threading.Thread(target=encode)
                thread.start()
                thread.join()
            return func(*args, **(kwargs or {}))

    names = [name for name in available(device) if name.startswith("sdpa_")]
    assert "sdpa_flash" in names
    for name in names:
        with Meanwhile():
            attention(query, key, value, backend=cast(Backend, name))
    assert found == [torch.Size([2, 3, 33, 64])] * len(names)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        thread = threading.Thread(target=encode)
        thread.start()
        thread.join()
    assert "No available kernel" in str(found[-1])


def test_sizes_that_do_not_fit_are_a_mistake() -> None:
    query = torch.zeros(1, 6, 1, 8)
    for wrong, lengths in (((3, 2), None), ((3, 3), torch.tensor([6]))):
        with pytest.raises(ValueError, match="do not fit"):
            attention(query, query, query, sizes=wrong, lengths=lengths)
    with pytest.raises(ValueError, match="do not fit"):
        attention(query.expand(2, -1, -1, -1), query, query, sizes=(6,))


def test_float64_truth_is_softmax_written_by_hand() -> None:
    query, key, value = (x.detach().double() for x in _inputs(8, "cpu", torch.float32))
    out = attention(query, key, value, backend="math")
    scores = key[1, :, 2] @ query[1, 5, 2] / 8**0.5
    weights = scores.exp() / scores.exp().sum()
    torch.testing.assert_close(out[1, 5, 2], weights @ value[1, :, 2])


def test_many_chunks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (2, 200, 3, 16)
    inputs = [
        torch.randn(shape, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(3)
    ]
    whole = _with_gradients("chunked", inputs, torch.tensor([200, 50]))
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 1)
    calls = []
    monkeypatch.setattr(module, "_rows", lambda *args, plain=module._rows: calls.append(1) or plain(*args))
    parts = _with_gradients("chunked", inputs, torch.tensor([200, 50]))
    assert len(calls) == 2 * 4  # 200 rows in chunks of 64, computed once forward and once more backward
    for got, want in zip(parts, whole, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", ["math", "chunked", "sdpa", "auto"])
def test_keys_past_the_length_have_no_effect_and_no_keys_give_zeros(backend: Backend) -> None:
    query, key, value = (x.detach() for x in _inputs(8, "cpu", torch.float32))
    lengths = torch.tensor([7, 0])
    out = attention(query, key, value, backend=backend, lengths=lengths)
    torch.testing.assert_close(out[:1], attention(query[:1], key[:1, :7], value[:1, :7], backend="math"))
    assert (out[1] == 0).all()
    changed = attention(
        query, key.index_fill(1, torch.arange(7, 40), 9.0), value, backend=backend, lengths=lengths
    )
    assert torch.equal(out, changed)


def test_automatic_choice_avoids_the_slow_fused_kernel_of_half_precision_on_cpu() -> None:
    assert choose(torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16)) == "chunked"
    assert choose(torch.zeros(1, 1, 1, 8)) == "sdpa"


def test_cudnn_is_not_asked_about_a_single_key() -> None:
    """A packed sample has one token; on a CPU, which has no cuDNN, any other number of keys is refused."""
    run = module.function("sdpa_cudnn")
    query, key, value = (x.detach() for x in _inputs(8, "cpu", torch.float32, keys=2))
    assert torch.equal(run(query, key[:, :1], value[:, :1], None), value[:, :1].expand(-1, 33, -1, -1))
    with pytest.raises(RuntimeError, match=r"Could not run .*cudnn_attention"):
        run(query, key, value, None)


@pytest.mark.parametrize(
    ("generation", "installed", "masked", "chosen"),
    [
        (8, True, False, "flash2"),
        (9, True, False, "flash3"),
        (10, True, False, "sdpa"),  # the third flash-attn runs on Hopper alone
        (9, False, False, "sdpa"),
        (9, True, True, "sdpa"),  # by itself torch takes no kernel that refuses, as cuDNN's does one key
    ],
)
def test_automatic_choice_on_cuda(
    generation: int, installed: bool, masked: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    monkeypatch.setattr(module, "library", lambda name: (None, "" if installed else "not installed"))
    query = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.bfloat16)
    assert choose(cast(Tensor, query), masked=masked) == chosen


def test_a_library_that_cannot_be_loaded_is_a_reason_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library built for another torch is one: its names are there, its symbols are not."""
    (tmp_path / "flash_attn_interface.py").write_text("raise ImportError('undefined symbol: _ZN3c104cuda')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "_libraries", {})
    assert unavailable("flash3", "cuda") == (
        "flash_attn_interface cannot be loaded (undefined symbol: _ZN3c104cuda)"
    )
    assert unavailable("flash2", "cuda") == "flash_attn.flash_attn_interface is not installed"
    assert "flash3" not in available("cuda")


def test_a_compiled_block_is_not_cut_by_the_search_for_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo

    def flash_attn_func(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return module._math(query, key, value, None)

    flash = SimpleNamespace(flash_attn_func=flash_attn_func)
    monkeypatch.setattr(module, "_libraries", {module.FLASH_MODULES["flash3"]: (flash, "")})
    query = torch.randn(1, 4, 1, 8)
    traced = torch._dynamo.explain(lambda x: module.function("flash3")(x, x, x, None) * 2)(query)
    assert traced.graph_break_count == 0
    looked = torch._dynamo.explain(lambda x: x * len(unavailable("flash3", "cuda") or "ab"))(query)
    assert looked.graph_break_count == 0


@pytest.mark.parametrize("backend", [name for name in BACKENDS if unavailable(name, "cpu")])
def test_an_unavailable_backend_is_refused_with_the_reason(backend: Backend) -> None:
    query = torch.zeros(1, 2, 1, 8)
    with pytest.raises(UserError, match=rf"attention={backend}: .*(is not installed|needs a CUDA device)"):
        attention(query, query, query, backend=backend)


def test_a_backend_without_key_lengths_is_refused_where_they_are_given() -> None:
    query = torch.zeros(1, 2, 1, 8)
    with pytest.raises(UserError, match=r"attention=sdpa_flash: .*takes no key lengths"):
        attention(query, query, query, backend="sdpa_flash", lengths=torch.tensor([1]))


def test_the_gradient_of_the_keys_of_a_chunk_lies_as_they_do() -> None:
    """It is not transposed, which would cost another pass over it."""
    query, key, value = (torch.randn(3, 8, 4, requires_grad=True) for _ in range(3))
    gradients = torch.autograd.grad(module._rows(query, key, value, None).sum(), (query, key, value))
    assert [gradient.stride() for gradient in gradients] == [query.stride()] * 3
