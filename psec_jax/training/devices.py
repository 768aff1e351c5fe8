"""Learning on all devices of this host: each has its share of the seeds and of every batch."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclass(frozen=True)
class Layout:
    """How ``seeds`` trained at once, and the rows of each one's batch, lie on the devices.

    Seeds are shared out first, for they have nothing to say to each other; devices that remain
    share each batch. ``mesh`` is None where all is on one device.
    """

    seeds: int
    mesh: Mesh | None

    @classmethod
    def of(cls, seeds: int, batch_size: int) -> "Layout":
        """On as many local devices as divide both evenly."""
        devices = jax.local_devices()
        shapes = [
            (a, b)
            for a in range(1, len(devices) + 1)
            for b in range(1, len(devices) // a + 1)
            if seeds % a == 0 and batch_size % b == 0
        ]
        shape = max(shapes, key=lambda s: (s[0] * s[1], s[0]))
        if shape == (1, 1):
            return cls(seeds, None)
        chosen = np.array(devices[: shape[0] * shape[1]]).reshape(shape)
        return cls(seeds, Mesh(chosen, ("seed", "batch")))

    def everywhere(self, tree: Any) -> Any:
        """``tree`` on each of the devices, whole."""
        return self._put(tree, PartitionSpec())

    def by_seed(self, tree: Any) -> Any:
        """``tree``, whose arrays' first axis is of seeds where there are several, shared out."""
        return self._put(tree, PartitionSpec("seed") if self.seeds > 1 else PartitionSpec())

    def batch(self, tree: Any) -> Any:
        """Within a program of one seed: the rows of ``tree`` are shared out."""
        if self.mesh is None:
            return tree
        rows = NamedSharding(self.mesh, PartitionSpec("batch"))
        return jax.lax.with_sharding_constraint(tree, rows)

    def over_seeds(self, program: Any) -> Any:
        """``program`` of one seed for all of them."""
        if self.seeds == 1:
            return program
        axis = None if self.mesh is None else "seed"
        return jax.vmap(program, spmd_axis_name=axis)

    def returned(self, tree: Any) -> Any:
        """A copy on the first device: another stage may use another number of them."""
        if self.mesh is None:
            return jax.tree.map(jax.numpy.copy, tree)
        return jax.device_put(tree, self.mesh.devices.flat[0])

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return tree
        put = lambda a: jax.device_put(a, NamedSharding(self.mesh, spec))  # noqa: E731
        return jax.tree.map(lambda a: put(a) if isinstance(a, jax.Array) else a, tree)
