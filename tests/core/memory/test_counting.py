"""Bytes of tensors that live during a pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.memory import outlines
from core.memory.counting import live_bytes
from core.memory.micro_batch import Measured
from core.memory.outlines import OutlinedBytes
from models.autoencoder.kl import KLConfig
from models.denoisers.dit import DiTConfig
from models.denoisers.network import example_inputs
from models.layers.embeddings import sincos_positions
from tests.fresh_python import imported_by

aten = torch.ops.aten
CPU = torch.device("cpu")


class Doubled(nn.Module):
    """Keeps what it multiplies: 4 bytes a number for each of two products."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight) * self.weight


def doubled(samples: int):
    def make() -> tuple[nn.Module, object]:
        model = Doubled()
        return model, lambda: model(torch.zeros(samples, 1000)).sum()

    return make


def autoencoder(samples: int):
    def make() -> tuple[nn.Module, object]:
        model = KLConfig(width=8).build()
        return model, lambda: model(torch.zeros(samples, 3, 1, 32, 32))[0].square().mean()

    return make


def denoiser(samples: int):
    config = DiTConfig(width=32, depth=2, heads=2, num_classes=10)

    def make() -> tuple[nn.Module, object]:
        model = config.build()

        def loss() -> Tensor:
            inputs = example_inputs(config, (samples, 4, 1, 16, 16), torch.get_default_device())
            return model(*inputs).square().mean()

        return model, loss

    return make


def count(make, *, fake: bool, dtype: torch.dtype = torch.float32) -> list[int]:
    return live_bytes(make, dtype=dtype, device=CPU, fake=fake)


def test_what_is_kept_counts_and_what_is_gone_does_not() -> None:
    trace = count(doubled(3), fake=False)
    assert 3 * 4000 * 3 <= max(trace) < 3 * 4000 * 4 + 1000
    assert trace[-1] < 1000


def test_weights_do_not_count_even_where_an_operation_looks_at_them() -> None:
    """A linear layer takes a view of its weight, which lives as long as the graph; the weight stays."""

    def make() -> tuple[nn.Module, object]:
        model = nn.Linear(1000, 10)
        return model, lambda: model(torch.zeros(1, 1000)).sum()

    trace = count(make, fake=False)
    assert max(trace) < 4 * (1000 + 10_000 + 100)  # the input, and the weight's gradient until it is let go


@pytest.mark.parametrize("made", [doubled, autoencoder, denoiser])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_alone_give_the_bytes_of_the_computed_pass(made, dtype: torch.dtype) -> None:
    for samples in (1, 2):
        computed = count(made(samples), fake=False, dtype=dtype)
        assert count(made(samples), fake=True, dtype=dtype) == computed
        known: Any = {"dtype": dtype, "device": CPU, "fake": False, "counter": OutlinedBytes}
        assert live_bytes(made(samples), **known) == computed


def test_a_pass_over_shapes_leaves_nothing_that_is_taken_for_data() -> None:
    grid = (1, 8, 8)  # that of `denoiser`, whose positions are kept from one call to the next
    count(denoiser(1), fake=True)
    assert type(sincos_positions(grid, 32, CPU)) is Tensor
    assert sincos_positions(grid, 32, CPU) is sincos_positions(grid, 32, CPU)


def test_positions_are_right_after_a_pass_without_products() -> None:
    """They are computed in the first pass that needs them, and kept for those of training."""
    sincos_positions.cache_clear()
    known: Any = {"dtype": torch.float32, "device": CPU, "fake": False, "counter": OutlinedBytes}
    live_bytes(denoiser(2), **known)
    kept = sincos_positions((1, 8, 8), 32, CPU)
    sincos_positions.cache_clear()
    assert torch.equal(kept, sincos_positions((1, 8, 8), 32, CPU))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_left_out_has_shape_type_and_strides_of_the_computed_result(dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 3, 8, 4, dtype=dtype), torch.randn(2, 1, 1, 4, dtype=dtype)
    scalar, turned, norm = (
        torch.tensor(2.0),
        torch.randn(4, 8, 3, 2, dtype=dtype).permute(3, 2, 1, 0),
        x[0, 0],
    )
    cases = [
        *(
            (func, (x, other), {})
            for func in (aten.add.Tensor, aten.mul.Tensor)
            for other in (y, scalar, 0.5)
        ),
        *((func, (y, x), {}) for func in (aten.sub.Tensor, aten.div.Tensor, aten.add.Tensor)),
        *((func, (x,), {}) for func in (aten.neg.default, aten.gelu.default, aten.silu.default)),
        *((aten.sum.dim_IntList, (x, dims, keeps), {}) for dims in ([0], [-1, 1]) for keeps in (True, False)),
        *((func, ([x, x], dim), {}) for func in (aten.cat.default, aten.stack.default) for dim in (0, 2, -1)),
        (aten.addcmul.default, (y, x, y), {}),
        (aten._to_copy.default, (x,), {"dtype": torch.float64}),
        (aten.gelu_backward.default, (x, x), {"approximate": "tanh"}),
        (aten.silu_backward.default, (x, x), {}),
        (aten.mse_loss_backward.default, (scalar.to(dtype), x, x, 1), {}),
        (aten.clone.default, (turned,), {"memory_format": torch.contiguous_format}),
        (
            aten.native_layer_norm_backward.default,
            (norm, norm, [4], norm[:, :1], norm[:, :1], None, None, [True, False, False]),
            {},
        ),
    ]
    assert {func for func, *_ in cases} | {aten.mul.Scalar, aten.div.Scalar} == set(outlines._SHAPED)
    for func, arguments, options in cases:
        left_out = outlines._SHAPED[func](*arguments, **options)
        assert _looks(left_out) == _looks(func(*arguments, **options)), func
    assert outlines._SHAPED[aten.add.Tensor](turned, x) is None  # strides that would have to be looked into


def _looks(result: Any) -> list[Any]:
    tensors = result if isinstance(result, tuple) else [result]
    return [t if t is None else (t.shape, t.stride(), t.dtype) for t in tensors]


@pytest.mark.parametrize("made", [doubled, autoencoder, denoiser])
def test_one_and_two_samples_tell_the_peak_of_many(made) -> None:
    found = Measured(count(made(1), fake=False), count(made(2), fake=False))
    for samples in (3, 8, 16):
        assert found.bytes(samples) == pytest.approx(max(count(made(samples), fake=False)), rel=0.01)


@pytest.mark.parametrize("fake", [True, False])
def test_nothing_is_drawn_from_torchs_generator(fake: bool) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    count(autoencoder(2), fake=fake)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_computed_pass_does_not_load_the_compiler() -> None:
    modules, _ = imported_by(
        "from tests.core.memory.test_counting import count, doubled; count(doubled(2), fake=False)"
    )
    assert "torch._dynamo" not in modules
