"""Two meshes over the same ranks: one for dense weights, one for those of the experts."""

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from turnout.config.parallel import ParallelPlan


@dataclass(frozen=True)
class Meshes:
    """Where each rank stands.

    Attributes:
        plan: sizes as numbers.
        dense: axes ``replica``, ``shard``, ``tensor``.
        experts: axes ``replica``, ``shard``, ``expert``, ``tensor``.
    """

    plan: ParallelPlan
    dense: DeviceMesh
    experts: DeviceMesh

    @staticmethod
    def of(plan: ParallelPlan, device: str = "cpu") -> "Meshes":
        """The meshes of a plan that ``ParallelPlan.over`` returned, over the default group."""
        dense = (plan.dense_replicas, plan.dense_shards, plan.tensor)
        experts = (plan.expert_replicas, plan.expert_fsdp, plan.expert, plan.tensor)
        return Meshes(
            plan,
            init_device_mesh(device, dense, mesh_dim_names=("replica", "shard", "tensor")),
            init_device_mesh(
                device, experts, mesh_dim_names=("replica", "shard", "expert", "tensor")
            ),
        )

    @property
    def batch_rank(self) -> int:
        """Which share of the rows this rank reads."""
        return self.dense.get_rank() // self.plan.tensor
