"""Copies of the state in host memory: whole, in one buffer a kind, and not changed under way."""

from __future__ import annotations

import pytest
import torch

from core.memory.host_memory import HostMemory


def test_a_kind_is_one_buffer_that_is_used_again() -> None:
    memory = HostMemory()
    state = {
        "weight/a@0": torch.arange(5.0),
        "weight/b@0": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        "moment/a@0": torch.ones(7),
    }
    first = memory.copy(state)
    for key, tensor in state.items():
        assert torch.equal(first[key], tensor)
        assert first[key].dtype == tensor.dtype
    storage = {key: tensor.untyped_storage().data_ptr() for key, tensor in first.items()}
    assert storage["weight/a@0"] == storage["weight/b@0"] != storage["moment/a@0"]
    state["weight/a@0"].add_(1)
    again = memory.copy(state)
    assert again["weight/a@0"].data_ptr() == first["weight/a@0"].data_ptr()
    assert torch.equal(again["weight/a@0"], state["weight/a@0"])
    memory.hold()
    memory.wait()  # nothing is under way from a CPU
    other = memory.copy({"weight/a@0": torch.zeros(9)})
    assert torch.equal(other["weight/a@0"], torch.zeros(9))


@pytest.mark.cuda
def test_a_copy_is_of_the_moment_it_was_taken_at() -> None:
    """While the GPU is behind, the state changes right after, held back by the copy."""
    state = torch.zeros(1 << 26, device="cuda")
    memory, work = HostMemory(), torch.randn(4096, 4096, device="cuda")
    for number in range(3):
        for _ in range(20):
            work = work @ work / 64
        state.fill_(number)
        copied = memory.copy({"weight/a@0": state})
        memory.hold()
        state.fill_(-1)
        memory.wait()
        assert torch.equal(copied["weight/a@0"], torch.full((1 << 26,), float(number)))
