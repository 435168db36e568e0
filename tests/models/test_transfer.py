"""Begin a network from another's weights: what it takes, what it can gain, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from core.batch import Condition
from core.config.loading import from_dict
from core.config.settings import setting
from core.errors import UserError, WorkError
from models.autoencoder.kl import KLConfig
from models.denoisers.dit import DiTConfig
from models.denoisers.kinds import KINDS
from models.denoisers.network import DenoiserConfig, example_inputs
from models.layers.embeddings import Grid
from models.places import PLACES_RULE, fit_places
from models.transfer import Rows, class_rows, plan_transfer
from tests.models.denoisers import conv

SMALL = DiTConfig(width=16, depth=2, heads=2, num_classes=3, attention="math")
CPU = torch.device("cpu")


def trained(config: Any) -> nn.Module:
    """Return a network of which no weight is zero, so that every input shows."""
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def begun(ours: Any, theirs: Any, rows: Rows | None = None) -> tuple[nn.Module, nn.Module]:
    """Return a network that begins from the weights of a trained one, and that one."""
    donor = trained(theirs)
    torch.manual_seed(1)
    model = ours.build()
    plan_transfer(ours, theirs, "there", rows).apply(model, donor.state_dict())
    return model, donor


def same_rows(count: int) -> Rows:
    names = [str(label) for label in range(count)]
    return class_rows(names, names, count, count)


@pytest.mark.parametrize("kind", [*KINDS, "conv"])
def test_an_equal_network_of_any_kind_takes_every_tensor_as_it_is(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "conv", conv.ConvConfig)
    config = from_dict(KINDS[kind], {"kind": kind, "width": 24, "num_classes": 3})
    model, donor = begun(config, config, same_rows(3))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), donor.parameters(), strict=True))


@pytest.mark.parametrize("config", [SMALL, DiTConfig(width=16, depth=1, heads=2, positions="rotary")])
@pytest.mark.parametrize("gained", [{"text_width": 6}, {"frame_condition": True}])
def test_an_input_that_is_gained_is_without_effect_at_first(
    config: DiTConfig, gained: dict[str, Any]
) -> None:
    larger = replace(config, **gained)
    transfer = plan_transfer(larger, config, "there", same_rows(config.num_classes))
    assert set(transfer.new.values()) == set(gained)
    assert not transfer.left
    model, donor = begun(larger, config, same_rows(config.num_classes))
    x, time, given = example_inputs(larger, (2, 4, 2, 4, 4), CPU, 5)
    x, time = torch.randn(x.shape), torch.tensor([3.0, 800.0])
    text = None if given.text is None else torch.randn(given.text.shape)
    length = None if text is None else torch.tensor([5, 3])
    frames = None if given.frame_latents is None else torch.randn(given.frame_latents.shape)
    mask = None if given.frame_mask is None else torch.ones_like(given.frame_mask)
    with torch.no_grad():
        told = model(x, time, Condition(given.label, text, length, mask, frames))
        assert torch.equal(told, donor(x, time, Condition(given.label)))


def test_an_input_that_is_lost_is_left_out_and_said() -> None:
    theirs = replace(SMALL, text_width=6, frame_condition=True)
    transfer = plan_transfer(SMALL, theirs, "there", same_rows(3))
    assert set(transfer.left.values()) == {"text_width", "frame_condition"}
    said = "\n".join(transfer.lines())
    assert "1 tensor of frame_condition, left out: frames.linear.weight" in said
    assert f"{len(transfer.left) - 1} tensors of text_width, left out: blocks.0.text" in said
    assert "and 9 more" in said, "names are few, however many tensors there are"


def test_rows_of_classes_follow_their_names() -> None:
    rows = class_rows(["dog", "cat", "fox"], ["cat", "dog", "eel"], 4, 3)
    assert rows == Rows([1, 0, 3, 3, 3], ["fox"], 2, 2, ["eel"])
    model, donor = begun(replace(SMALL, num_classes=4), SMALL, rows)
    table, there = model.label.table.weight, donor.label.table.weight  # type: ignore[union-attr]
    assert torch.equal(table, there[[1, 0, 3, 3, 3]])
    said = "\n".join(plan_transfer(replace(SMALL, num_classes=4), SMALL, "there", rows).lines())
    assert "by name: 2 known (2 under other labels), new: fox, which begin as no class, left out: eel" in said


@pytest.mark.parametrize(
    ("ours", "theirs", "count", "there", "source"),
    [
        ((), (), 3, 3, [0, 1, 2, 3]),
        ((), ("cat",), 2, 3, [0, 1, 3]),  # no names here: labels stay
        (("cat",), (), 2, 0, [0, 0, 0]),  # no classes there: all begin as no class
        (("cat",), ("cat", "dog"), 4, 3, [0, 3, 2, 3, 3]),  # rows beyond all names keep their labels
    ],
)
def test_rows_without_names_keep_their_labels(
    ours: tuple[str, ...], theirs: tuple[str, ...], count: int, there: int, source: list[int]
) -> None:
    assert class_rows(ours, theirs, count, there).source == source


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"width": 32},
            r"^width=32: expected 16, with which there was trained: .* is \(32.*\) here and \(16",
        ),
        ({"depth": 3}, r"^depth=3: expected 2, .*: blocks\.2\.\S+ is \(\d+.*\) here and absent there"),
        ({"depth": 1}, r"^depth=1: expected 2, .*: blocks\.1\.\S+ is absent here and \(\d+"),
        ({"heads": 4}, r"^heads=4: expected 2, with which there was trained$"),  # of the same shapes
        ({"patch": (2, 2, 1)}, r"^patch=\[2, 2, 1\]: expected \[1, 2, 2\], with which there was trained$"),
        ({"positions": "rotary"}, r"^positions=rotary: expected sincos, with which there was trained$"),
        ({"qk_norm": True}, r"^qk_norm=True: expected False, .*query_norm.weight is \(8,\) here and absent"),
        ({"learned_sigma": True}, r"^learned_sigma=True: expected False, .*final.weight is \(32, 16\) here"),
        ({"width": 32, "heads": 4}, r"^width=32: expected 16, .*; and heads=4: expected 2$"),
    ],
)
def test_networks_of_another_shape_are_refused_by_field_and_tensor(
    changed: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        plan_transfer(replace(SMALL, **changed), SMALL, "there", same_rows(3))


def test_text_of_another_width_is_refused_and_another_backend_is_not() -> None:
    theirs = replace(SMALL, text_width=6)
    with pytest.raises(UserError, match=r"^text_width=8: expected 6, .*key_value.weight is \(32, 8\) here"):
        plan_transfer(replace(SMALL, text_width=8), theirs, "there", same_rows(3))
    transfer = plan_transfer(replace(theirs, attention="sdpa", preset=""), theirs, "there", same_rows(3))
    assert not transfer.new


def test_networks_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match=r"^kind=conv: expected dit, which there is of$"):
        plan_transfer(conv.ConvConfig(), SMALL, "there")
    wide = conv.ConvConfig(layers=3)
    with pytest.raises(UserError, match=r"^layers=3: expected 2, .* here and absent there"):
        plan_transfer(wide, conv.ConvConfig(), "there", same_rows(10))


def test_an_autoencoder_takes_part_where_it_is_equal() -> None:
    config = KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    model, donor = begun(config, config)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), donor.parameters(), strict=True))
    with pytest.raises(UserError, match=r"^blocks=2: expected 1, .* here and absent there"):
        plan_transfer(replace(config, blocks=2), config, "there")


def test_tensors_that_are_not_those_of_the_configuration_or_not_finite_are_refused() -> None:
    transfer, state = plan_transfer(SMALL, SMALL, "there", same_rows(3)), trained(SMALL).state_dict()
    with pytest.raises(WorkError, match=r"^there does not fit its configuration: final.bias is \(16,\)$"):
        transfer.require_state({name: t for name, t in state.items() if name != "final.bias"}, "there")
    state["final.bias"][3] = torch.nan
    with pytest.raises(UserError, match=r"not finite, the first in final.bias$"):
        transfer.require_state(state, "there")


@dataclass(frozen=True, kw_only=True)
class TableConfig(DiTConfig):
    """A DiT that learns its places."""

    kind: Literal["table"] = setting("table", "")  # type: ignore[assignment]
    grid: Grid = setting((1, 4, 4), "")

    def build(self, sequence: Any = None) -> Any:
        return Table(self)


class Table(nn.Module):
    """A learned table of places, and a layer."""

    def __init__(self, config: TableConfig) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(*config.grid, 2))
        self.table.places = "grid"  # type: ignore[attr-defined]
        self.layer = nn.Linear(2, 2)


def test_a_learned_table_of_places_is_interpolated_and_the_rule_is_named() -> None:
    ours, theirs = TableConfig(grid=(2, 8, 6)), TableConfig()
    model, donor = begun(ours, theirs)
    assert torch.equal(model.table, fit_places(donor.table, (2, 8, 6)))  # type: ignore[arg-type]
    said = plan_transfer(ours, theirs, "there").lines()
    assert said[0] == "2 of 3 tensors are taken as they are"
    assert said[1] == f"tables of places are interpolated ({PLACES_RULE}): table (1, 4, 4, 2) to (2, 8, 6, 2)"


def test_interpolation_keeps_what_is_constant_linear_or_of_the_same_size() -> None:
    table = torch.randn(2, 4, 6, 3)
    assert torch.equal(fit_places(table, table.shape), table)
    flat = torch.full((1, 4, 4, 2), 0.7)
    assert torch.allclose(fit_places(flat, (5, 9, 3)), torch.tensor(0.7))
    ramp: Tensor = torch.arange(8.0)[None, :, None, None].expand(1, 8, 8, 1)
    inner = fit_places(ramp, (1, 16, 16))[0, 4:-4, 0, 0]
    assert torch.allclose(inner, (torch.arange(4.0, 12.0) + 0.5) / 2 - 0.5, atol=1e-5)
    moments = torch.arange(4.0)[:, None, None, None].expand(4, 2, 2, 1)
    assert torch.allclose(fit_places(moments, (8, 2, 2))[1:-1, 0, 0, 0], torch.arange(6.0) / 2 + 0.25)


def test_the_protocol_of_kinds_says_what_may_differ() -> None:
    tagged = {
        name: parameter.added_by  # type: ignore[attr-defined]
        for name, parameter in replace(SMALL, text_width=6, frame_condition=True).build().named_parameters()
        if hasattr(parameter, "added_by")
    }
    config: DenoiserConfig = SMALL
    assert set(tagged.values()) == {"text_width", "frame_condition"}
    assert not any(hasattr(parameter, "added_by") for parameter in config.build().parameters())
