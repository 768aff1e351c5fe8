"""Learning on all devices of all processes: each has its share of the seeds and of every batch."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclass(frozen=True)
class Layout:
    """How ``seeds`` trained at once, and the rows of each one's batch, lie on the devices.

    The work is divided as far as it can be, and where seeds and batch divide it equally, by seeds,
    which have nothing to say to each other. Every process takes part: where neither can be divided
    further, ``copy`` of them do the same. ``mesh`` is None where all is on one device.
    """

    seeds: int
    mesh: Mesh | None

    @classmethod
    def of(cls, seeds: int, batch_size: int) -> "Layout":
        """On as many devices, equally many of each process, as divide both evenly."""
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
        grid = np.array(devices).reshape(jax.process_count(), -1)
        shapes = [
            (used * len(grid) // (a * b), a, b)
            for used in range(1, grid.shape[1] + 1)
            for a in range(1, used * len(grid) + 1)
            for b in range(1, used * len(grid) // a + 1)
            if used * len(grid) % (a * b) == 0 and seeds % a == 0 and batch_size % b == 0
        ]
        # Of those that divide the work most, one that repeats it least.
        shape = max(shapes, key=lambda s: (s[1] * s[2], s[1], -s[0]))
        if np.prod(shape) == 1:
            return cls(seeds, None)
        chosen = grid[:, : np.prod(shape) // len(grid)].reshape(shape)
        return cls(seeds, Mesh(chosen, ("copy", "seed", "batch")))

    def everywhere(self, tree: Any) -> Any:
        """``tree`` on each of the devices, whole."""
        return self._put(tree, PartitionSpec())

    def by_seed(self, tree: Any) -> Any:
        """``tree``, whose arrays' first axis is of seeds where there are several, shared out."""
        return self._put(tree, PartitionSpec("seed") if self.seeds > 1 else PartitionSpec())

    def batch(self, tree: Any) -> Any:
        """Within a program of one seed: the rows of ``tree`` are shared out."""
        return self._within(tree, PartitionSpec("batch"))

    def whole(self, tree: Any) -> Any:
        """Within a program: ``tree`` comes to every device, so that each process can read it."""
        return self._within(tree, PartitionSpec())

    def over_seeds(self, program: Any) -> Any:
        """``program`` of one seed for all of them."""
        if self.seeds == 1:
            return program
        axis = None if self.mesh is None else "seed"
        return jax.vmap(program, spmd_axis_name=axis)

    def returned(self, tree: Any) -> Any:
        """A copy on this process' first device: another stage may use another number of them."""
        if self.mesh is None:
            return jax.tree.map(jax.numpy.copy, tree)
        whole = jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))
        return jax.tree.map(lambda leaf: jax.numpy.copy(leaf.addressable_data(0)), whole)

    def _within(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, spec))

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, spec)

        def put(leaf: Any) -> Any:
            if not isinstance(leaf, jax.Array):
                return leaf
            if sharding.is_fully_addressable:
                return jax.device_put(leaf, sharding)
            # Every process has the same: nothing need be sent, as device_put would to compare.
            return jax.make_array_from_callback(
                leaf.shape, sharding, jax.device_get(leaf).__getitem__
            )

        return jax.tree.map(put, tree)
