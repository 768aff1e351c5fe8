"""Parameters of networks: arrays nested by module, as Linen has them, or flat by their path; and
what tells trees of them apart."""

from collections.abc import Mapping
from typing import Any, cast

import jax
from flax import traverse_util
from jaxtyping import Array

# Module → its parameters by name, or its modules'.
Params = Mapping[str, Any]
Path = tuple[str, ...]


def by_path(params: Params) -> dict[Path, Array]:
    """Each array under the names of its modules and its own."""
    return cast(dict[Path, Array], traverse_util.flatten_dict(dict(params)))


def by_name(params: Params) -> dict[str, Array]:
    """Each array under its path, joined by slashes."""
    return {"/".join(path): value for path, value in by_path(params).items()}


def nested(flat: Mapping[Path, Array]) -> Params:
    """The parameters that ``by_path`` was given."""
    return traverse_util.unflatten_dict(dict(flat))


def classes(tree: Any) -> int:
    """What tells two trees of other classes apart, in this process.

    A static argument of what is compiled: JAX calls the structures of two dataclasses equal where
    their fields are, so that now and then, as hashes fall, one would run the other's program.
    """
    return hash(jax.tree.structure(tree))
