"""Learning on all devices of this host: each works on its share of every batch."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def batch_sharding(batch_size: int) -> NamedSharding | None:
    """How a batch's rows are shared out, among as many local devices as divide it evenly.

    None where that is one device.
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if count == 1:
        return None
    return NamedSharding(Mesh(devices[:count], ("batch",)), PartitionSpec("batch"))


def on_each(tree, sharding: NamedSharding):
    """``tree`` with every array on each of the devices, whole."""
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    move = lambda leaf: jax.device_put(leaf, everywhere) if isinstance(leaf, jax.Array) else leaf  # noqa: E731
    return jax.tree.map(move, tree)
