"""A network's shapes without its weights. Run: pytest tests/models/test_weights.py"""

from __future__ import annotations

import torch

from models.autoencoder.kl import Autoencoder, KLConfig
from models.denoisers.dit import DiT, DiTConfig
from models.weights import fingerprint, shapes_only


def test_shapes_are_those_of_the_network_and_nothing_is_drawn() -> None:
    shape, tiny = (
        KLConfig(width=8, channel_multipliers=(1, 1, 1)),
        DiTConfig(width=32, depth=2, heads=2),
    )
    before = torch.random.get_rng_state()
    with shapes_only():
        found = [Autoencoder(shape), DiT(tiny)]
    assert torch.equal(torch.random.get_rng_state(), before)
    for network, whole in zip(found, [Autoencoder(shape), DiT(tiny)], strict=True):
        assert all(parameter.is_meta for parameter in network.parameters())
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in whole.state_dict().items()}


def test_a_hash_knows_names_types_shapes_and_bytes() -> None:
    state = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(1, dtype=torch.int64),
        "c": torch.empty(0),
    }
    hashes = {
        fingerprint(changed)
        for changed in (
            state,
            {**state, "a": state["a"].reshape(3, 2)},
            {**state, "a": state["a"].bfloat16()},
            {**state, "a": state["a"] + 1},
            {**state, "a": state["a"].t()},
            {"d" if name == "a" else name: tensor for name, tensor in state.items()},
        )
    }
    assert len(hashes) == 6
    assert fingerprint({**state, "a": state["a"].t().contiguous().t()}) == fingerprint(state)
