"""The networks that a run trains, by name: each has an engine, and averages of its weights or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.averages.ema import Ema

if TYPE_CHECKING:  # DeepSpeed is imported only for training
    from core.engine.engine import Engine

# The main network, and in most runs the only one: its numbers and tensors carry no name.
MAIN = ""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Network:
    """A network under training and the averages of its weights."""

    engine: Engine
    ema: Ema | None = None


Networks = Mapping[str, Network]


def require_networks(networks: Networks) -> None:
    """Raise ValueError unless one is MAIN, names can stand before those of tensors, all share data alike, and
    none shares parameters."""
    if MAIN not in networks:
        raise ValueError(f"networks {sorted(networks)}: expected one named {MAIN!r} among them")
    for name, network in networks.items():
        if name != MAIN and not _NAME.fullmatch(name):
            raise ValueError(f"network {name!r}: expected a name of a-z, 0-9 and _")
        if network.engine.data_ranks != networks[MAIN].engine.data_ranks:
            raise ValueError(f"network {name!r}: expected engine.sequence_parallel as of the main network")
    owners: dict[int, str] = {}
    for name, network in networks.items():
        for key, parameter in network.engine.module.named_parameters():
            if (owner := owners.setdefault(id(parameter), name)) != name:
                raise ValueError(f"parameter {key} of network {name!r} is one of {owner!r}: expected its own")
