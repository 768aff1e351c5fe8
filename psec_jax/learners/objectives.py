"""Objectives: what a critic's value is the value of.

An objective is a frozen description with two answers. ``greater_is_better`` says in which
direction actions improve it; ``target(batch, following)`` is what Q(s, a) should be, given the
value of the state that the action led to. Beyond a termination there is nothing to come; a
truncated trajectory would have gone on, so its last state keeps its value.
"""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from psec_jax.data.dataset import TransitionDataset


def static(default: Any) -> Any:
    """A field that is compiled in."""
    return struct.field(pytree_node=False, default=default)


class Objective(Protocol):
    """A pytree, whose leaves may differ between seeds that are trained at once."""

    @property
    def greater_is_better(self) -> bool: ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the data that ``target`` reads."""
        ...

    def target(
        self, batch: Mapping[str, Array], following: Float[Array, "batch"]
    ) -> Float[Array, "batch"]: ...


@struct.dataclass
class Return:
    """The discounted return: r + γ V(s'), with rewards multiplied by ``scale``."""

    discount: float = static(0.99)
    scale: float = 1.0

    greater_is_better = True
    columns = ("rewards", "terminations")

    def __post_init__(self):
        _check_discount(self.discount)
        _check_positive("scale", self.scale)

    @classmethod
    def scaled_to(
        cls, data: TransitionDataset, deviation: float = 0.25, discount: float = 0.99
    ) -> "Return":
        """With rewards scaled to a standard deviation in ``data``, so that one temperature fits
        robots of different rewards.

        IQL divides D4RL's locomotion rewards by a thousandth of the range of returns, which gives
        a deviation near 0.25 there, but a few trajectories have hardly a range. Raises
        ``ValueError`` for data without rewards.
        """
        actual = float(np.std(data.columns(["rewards"])["rewards"], dtype=np.float64))
        return cls(discount, deviation / actual if actual > 0 else 1.0)

    def target(self, batch, following):
        return self.scale * batch["rewards"] + _discounted(self.discount, batch, following)


# What may be kept small, by name: the columns that it is computed from, and how.
SIGNALS: dict[str, tuple[tuple[str, ...], Callable[..., Array]]] = {
    "costs": (("costs",), lambda costs: costs),
    "energy": (("actions",), lambda actions: jnp.mean(jnp.square(actions), axis=-1)),
}


@struct.dataclass
class DiscountedCost:
    """The discounted sum of a signal that is to be small: c + γ V(s'), with c multiplied by
    ``scale``.

    ``signal`` names one of ``SIGNALS``: the data's ``costs``, or ``energy``, the mean square of
    an action.
    """

    discount: float = static(0.99)
    signal: str = static("costs")
    scale: float = 1.0

    greater_is_better = False

    def __post_init__(self):
        _check_discount(self.discount)
        _check_positive("scale", self.scale)
        if self.signal not in SIGNALS:
            raise ValueError(f"signal {self.signal!r} is unknown; expected one of {list(SIGNALS)}")

    @property
    def columns(self) -> tuple[str, ...]:
        return (*SIGNALS[self.signal][0], "terminations")

    def target(self, batch, following):
        columns, compute = SIGNALS[self.signal]
        signal = compute(*(batch[name] for name in columns))
        return self.scale * signal + _discounted(self.discount, batch, following)


@struct.dataclass
class Feasibility:
    """The worst that is to come (Hamilton–Jacobi, as in FISOR): (1 − γ) h + γ max(h, V(s')).

    h is ``unsafe`` where a step's cost is above ``threshold``, else ``safe``. A state is feasible,
    all violations avoidable from it, where V(s) < 0.
    """

    discount: float = static(0.99)
    unsafe: float = static(25.0)
    safe: float = static(-1.0)
    threshold: float = static(0.0)

    greater_is_better = False
    columns = ("costs", "terminations")

    def __post_init__(self):
        _check_discount(self.discount)
        if not self.safe < 0 < self.unsafe:
            raise ValueError(
                f"feasibility needs safe < 0 < unsafe, not safe={self.safe!r} and "
                f"unsafe={self.unsafe!r}"
            )

    def relabel(self, costs: Array) -> Array:
        return jnp.where(costs > self.threshold, self.unsafe, self.safe)

    def target(self, batch, following):
        h = self.relabel(batch["costs"])
        going_on = (1 - self.discount) * h + self.discount * jnp.maximum(h, following)
        return jnp.where(batch["terminations"], h, going_on)


def _discounted(discount, batch, following):
    return discount * jnp.where(batch["terminations"], 0.0, following)


def _check_discount(discount: float) -> None:
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), not {discount!r}")


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, Real) and not 0 < value < float("inf"):
        raise ValueError(f"{name} must be above 0 and finite, not {value!r}")
