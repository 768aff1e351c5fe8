"""What can be trained: pure functions from a state and a batch to the next state."""

from typing import Any, Protocol

import jax

from psec_jax.backbones import Batch


class Learner(Protocol):
    """What ``fit`` trains: a pytree of frozen things and hyperparameters, with pure functions."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]:
        """What a batch holds: names of the data's arrays."""
        ...

    def init(self, key: jax.Array, example: Batch) -> Any:
        """The state that training starts from, given a batch of one."""
        ...

    def update(self, state: Any, batch: Batch, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """The next state, and metrics, among them ``loss``."""
        ...

    def result(self, state: Any) -> Any:
        """What has been learned."""
        ...
