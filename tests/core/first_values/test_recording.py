"""First values by ranges, with the bits of a network built as usual. Run: pytest tests/core/first_values"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from core.first_values import mersenne_twister
from core.first_values.mersenne_twister import _later
from core.first_values.recording import first_of, without_weights
from models.autoencoder.kl import KLConfig
from models.denoisers.dit import DiTConfig


class Odd(nn.Module):
    """Weights made in several ways: anew, in steps, twice, as ones; one that two names share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(7, 5), nn.GroupNorm(1, 5)
        self.cut = nn.Parameter(torch.empty(90, 1000))
        self.ones, self.drawn = nn.Parameter(torch.ones(3)), nn.Parameter(torch.randn(5, 5))
        self.fine = nn.Parameter(torch.empty(9, dtype=torch.bfloat16))
        nn.init.uniform_(self.cut)
        nn.init.normal_(self.cut, std=0.02)
        nn.init.normal_(self.fine)
        nn.init.zeros_(self.layer.weight)
        with torch.no_grad():
            self.ones.add_(2.0).mul_(0.5)
        self.last = nn.Embedding(3, 4)
        self.last.weight = self.cut


BUILT: dict[str, Callable[[], nn.Module]] = {
    "odd": Odd,
    "buffered": lambda: Buffered(),
    "dit": DiTConfig(width=36, depth=2, heads=3, num_classes=3).build,
    "dit with all inputs": DiTConfig(
        width=8,
        depth=2,
        heads=2,
        num_classes=0,
        text_width=12,
        frame_condition=True,
        two_times=True,
        qk_norm=True,
    ).build,
    "published": DiTConfig.presets["DiT-S/4"].build,
}


@pytest.mark.parametrize("name", BUILT)
def test_ranges_are_those_of_the_network_built_as_usual(name: str) -> None:
    torch.manual_seed(5)
    plain, after = BUILT[name](), torch.rand(700)
    torch.manual_seed(5)
    network = without_weights(BUILT[name])
    assert torch.equal(torch.rand(700), after)  # what is drawn later stays what it was
    firsts = first_of(network)
    assert list(firsts) == [name for name, _ in plain.named_parameters()]
    for key, parameter in reversed(list(plain.named_parameters())):
        whole, count = parameter.detach().flatten().float(), parameter.numel()
        assert torch.equal(firsts[key](0, count), whole), key
        low, high = count // 3, count // 3 + count // 2
        assert torch.equal(firsts[key](low, high), whole[low:high]), key
        assert firsts[key](low, low).shape == (0,)
    other = dict(network.named_parameters())
    for key, parameter in plain.named_parameters():
        assert other[key].shape == parameter.shape
        assert set(vars(other[key])) - {"first"} == set(vars(parameter))
    held = dict(network.named_buffers())  # and of a buffer that two modules have only one
    assert list(held) == [name for name, _ in plain.named_buffers()]
    for key, buffer in plain.named_buffers():
        assert held[key].dtype == buffer.dtype
        assert torch.equal(held[key], buffer), key


def test_drawing_a_range_leaves_the_generator_alone() -> None:
    network = without_weights(BUILT["dit"])
    before = torch.get_rng_state()
    for first in first_of(network).values():
        first(0, 1)
    assert torch.equal(torch.get_rng_state(), before)


class Buffered(nn.Module):
    """Buffers made in several ways: of numbers, through views, drawn, from a parameter; one is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.inner = nn.Linear(7, 5), nn.BatchNorm1d(3)
        rates = 100 ** -torch.linspace(0, 1, 4)
        table = torch.outer(torch.arange(6.0), rates).cos()
        table[1:3].zero_()
        table.T[0] = 3.0
        self.register_buffer("table", table[:, 1:])
        self.register_buffer("given", torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, None], persistent=False)
        self.register_buffer("phase", 2 * torch.rand(9) - torch.randn(9))
        self.register_buffer("mean", self.layer.weight.detach().mean(0))
        self.register_buffer("nothing", None)
        self.inner.register_buffer("shared", self.phase)
        self.last = nn.Linear(5, 2)


class Computed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(3, 3), nn.Parameter(torch.linspace(0, 1, 3).square())


class Cut(nn.Module):
    """On the meta device torch draws nothing for such weights: what comes after would be other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        nn.init.trunc_normal_(self.layer.weight)
        nn.init.zeros_(self.layer.weight)
        nn.init.uniform_(self.other.weight)


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        with torch.no_grad():
            self.layer.weight[0].zero_()


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("order", torch.randperm(5))


@pytest.mark.parametrize("build", [Computed, Cut, Sliced, Shuffled, KLConfig().build])
def test_what_is_not_known_is_built_as_usual(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(3)
    plain, after = build(), torch.rand(3)
    torch.manual_seed(3)
    network = without_weights(build)
    assert torch.equal(torch.rand(3), after)
    assert first_of(network) == {}
    other: dict[str, Tensor] = network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in plain.state_dict().items())


def test_weights_made_in_the_order_of_their_drawing_are_made_with_few_skips(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A skip takes some 15 ms, so that one for each of a network's matrices was a quarter of a start."""
    network = without_weights(DiTConfig(width=384, depth=3, heads=6).build)
    skips: list[int] = []
    monkeypatch.setattr(mersenne_twister, "_later", lambda *a: skips.append(a[1]) or _later(*a))
    for first, parameter in zip(first_of(network).values(), network.parameters(), strict=True):
        first(0, parameter.numel())
    assert len(skips) == 4  # past what layers drew when they were built, and past three that were drawn anew
