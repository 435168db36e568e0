"""What all tests of `plan` need: torch's own linear layer, whose activations are counted."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def own_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what ZeRO-3 has done to torch, where another test ran it in this process."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)
