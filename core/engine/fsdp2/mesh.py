"""Group the ranks: shard groups share the state, replicas reduce gradients among themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from core.distributed.ranks import Group, World
from core.engine.config import EngineConfig
from core.engine.shards import Replicas
from core.environment import ranks_on_node


@dataclass(frozen=True)
class Sharing:
    """The place of this rank: `rank` of the `size` ranks that share the state, copy `replica` of `replicas`.

    mesh: torch's, of one axis, or of two, replicas before shards.
    """

    mesh: DeviceMesh
    rank: int
    size: int
    replica: int
    replicas: int

    @property
    def group(self) -> Group:
        """Return the process group of this shard group."""
        return self.mesh.get_group("shard")

    @property
    def equals(self) -> Replicas | None:
        """Return the ranks whose part of the state is this rank's, one a replica; None for one replica."""
        return Replicas(self.rank, self.mesh.get_group("replica")) if self.replicas > 1 else None


def make_sharing(world: World, config: EngineConfig) -> Sharing:
    """Make the groups of ranks that share the state, and of those that hold equal parts (collective)."""
    size = config.copy_ranks(world.size, ranks_on_node(world.size))
    replicas = world.size // size
    if replicas == 1:
        mesh = init_device_mesh(world.device.type, (size,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(world.device.type, (replicas, size), mesh_dim_names=("replica", "shard"))
    return Sharing(mesh, world.rank % size, size, world.rank // size, replicas)
