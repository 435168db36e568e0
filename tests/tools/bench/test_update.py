"""The measurement of an update: its reference is torch's. Run: pytest tests/tools/bench/test_update.py"""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from launch import cli
from tools.bench import update, updates
from tools.bench.update import Reference
from tools.bench.updates import ONE, Bare, Material, Usual


@pytest.fixture
def material() -> Material:
    torch.manual_seed(0)
    network = nn.Linear(300, 10)
    return Material(network, [torch.randn_like(p).bfloat16().float() for p in network.parameters()])


@pytest.mark.parametrize("kind", [Usual, lambda material: Bare(material, ONE)])
def test_the_reference_sees_what_is_right_and_what_is_wrong(material, kind):
    state, reference = kind(material), Reference(material)
    for _ in range(3):
        state.prepare()
        state.step()
        assert reference.agrees(state)
    for number in range(3):
        tensor = state.result()[0][number].detach()
        right = tensor.clone()
        tensor.view(-1)[-1] += 1e-2
        assert not reference.agrees(state)
        tensor.copy_(right)
    state.updates += 1
    assert not reference.agrees(state)


def test_an_update_without_clipping_is_seen(material, monkeypatch):
    state = Usual(material)
    monkeypatch.setattr(updates, "CLIPPING", 1e9)
    state.prepare()
    state.step()
    monkeypatch.undo()
    assert not Reference(material).agrees(state)


def test_a_device_has_its_gradients_before_the_clock_starts(material, monkeypatch):
    """It computes them beside the host, and what is left of that would count as the update."""
    done = []
    state = Usual(material)
    monkeypatch.setattr(state, "prepare", lambda: done.append("prepared"))
    monkeypatch.setattr(update.hardware, "wait", lambda device: done.append("waited"))
    update.way("usual", state, material).prepare()
    assert done == ["prepared", "waited"]


def test_the_limit_moves_as_many_bytes_as_it_says(material, monkeypatch):
    moved = []
    like = torch.zeros(100)
    for name, size in (("add_", 12), ("copy_", 8)):
        whole = getattr(torch.Tensor, name)

        def counted(self, *args, whole=whole, size=size, **kwargs):
            moved.append(size * self.numel())
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    for way in update.limits(like, 150, 40):
        moved.clear()
        list(way.items())
        assert sum(moved) == 150 * 40


@pytest.mark.full
def test_a_small_run_has_promises_and_the_engines_extra(tmp_path):
    words = ("rounds=1", "network=DiT-S/8", "floors=false")
    assert cli.main(["bench", "update", f"output={tmp_path}", *words]) == 0
    whole, one, three = json.loads((tmp_path / "update.json").read_text())["rows"]
    assert set(whole["timings"]) == {
        "longtake",
        update.USUAL,
        update.ENGINE,
        update.FSDP2,
        update.TRIAD,
        update.COPY,
    }
    assert "engine's extra, ms" in whole["facts"]
    assert [f["floor"] for row in (whole, one, three) for f in row["floors"]] == [2.8, 1.5, 1.2, 0.15]
