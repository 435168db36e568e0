"""Recomputing activations saves memory and changes nothing. Run: pytest
tests/core/engine/test_activation_checkpointing.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.batch import Condition
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.config import EngineConfig
from models.denoisers.dit import DiT, DiTConfig

MODES = ("none", "selective", "every_k", "full")
DTYPES = (torch.float32, torch.bfloat16)  # on CPU: fused attention, explicit attention
TOKENS, WIDTH, DEPTH = 2 * 8 * 8, 32, 4


class Storages(TorchDispatchMode):
    """Watches the memory of everything that is computed inside, wherever it is kept."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[StorageWeakRef, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._seen.append((StorageWeakRef(storage), storage.nbytes()))
        return result

    def alive(self) -> int:
        """Return the bytes of everything that was made inside and still exists."""
        return sum({ref.cdata: size for ref, size in self._seen if not ref.expired()}.values())


def network(mode: str, dtype: torch.dtype) -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=WIDTH, depth=DEPTH, heads=4, num_classes=3))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    checkpoint_blocks(model.blocks, EngineConfig(activation_checkpointing=mode))  # type: ignore[arg-type]
    return model.to(dtype)


def forward(model: DiT) -> Tensor:
    x = torch.randn(2, 4, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    return model(x, torch.tensor([10.0, 900.0]), Condition()).square().mean()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES[1:])
def test_loss_and_gradients_are_bitwise_those_without(mode: str, dtype: torch.dtype) -> None:
    results = []
    for which in ("none", mode):
        model = network(which, dtype)
        loss = forward(model)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("mode", MODES[1:])
def test_attention_that_recomputes_its_own_chunks_can_be_inside(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.attention.backends.CHUNK_NUMBERS", 1)
    test_loss_and_gradients_are_bitwise_those_without(mode, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_recomputing_keeps_less(dtype: torch.dtype) -> None:
    kept = {}
    for mode in MODES:
        model, storages = network(mode, dtype), Storages()
        with storages:
            loss = forward(model)
        kept[mode] = storages.alive()
        del loss
    token = 2 * TOKENS * WIDTH * dtype.itemsize  # all tokens of the batch once
    assert kept["full"] < kept["selective"] < kept["none"]
    assert kept["full"] < kept["every_k"] < kept["none"]
    # Of a block `full` keeps the input; `selective` also qkv, attention, both outputs and the hidden layer.
    assert kept["selective"] - kept["full"] == pytest.approx(DEPTH * (3 + 1 + 2 + 4) * token, rel=0.1)
    assert kept["none"] - kept["every_k"] == pytest.approx((kept["none"] - kept["full"]) / 2, rel=0.1)


def saved_bytes(model: DiT) -> int:
    """Return the bytes that autograd is given to keep."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(model)
    return sum(sizes)


@pytest.mark.parametrize(("mode", "recomputed"), [("every_k", DEPTH // 2), ("full", DEPTH)])
def test_of_a_recomputed_block_autograd_gets_the_inputs_alone(mode: str, recomputed: int) -> None:
    plain, without = network("none", torch.float32), network("none", torch.float32)
    without.blocks = torch.nn.ModuleList()
    around = saved_bytes(without)
    per_block = (saved_bytes(plain) - around) / DEPTH
    inputs = 4 * (2 * TOKENS * WIDTH + 2 * WIDTH)  # the tokens and the condition
    found = saved_bytes(network(mode, torch.float32)) - around
    assert found == per_block * (DEPTH - recomputed) + inputs * recomputed
