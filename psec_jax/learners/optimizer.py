"""What every learner does with a loss: a step of an optimizer, and an average of the parameters.

An optimizer is an ``Optimizer``, which is AdamW under a schedule, or any optax transformation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from psec_jax import reprs
from psec_jax.backbones import Batch
from psec_jax.settings import python_number

SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "cosine": optax.cosine_decay_schedule,
    "constant": lambda learning_rate, steps: optax.constant_schedule(learning_rate),
}


@dataclass(frozen=True)
class Optimizer:
    """AdamW whose learning rate follows ``schedule`` over ``steps`` updates.

    ``cosine`` falls to zero along a half cosine, ``constant`` stays. ``ema_rate`` is the share of
    the newest parameters in the moving average that acts; ``clip`` bounds the gradient's global
    norm where given. The verbs set ``steps`` to their own.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    ema_rate: float = 0.001
    clip: float | None = None
    steps: int = 10_000
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(self, name, python_number(value))
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule {self.schedule!r} is unknown; expected one of {list(SCHEDULES)}"
            )
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate!r}")
        _check_ema_rate(self.ema_rate)

    def over(self, steps: int) -> "Optimizer":
        """The same with its schedule over ``steps`` updates."""
        return replace(self, steps=steps)

    @property
    def reach(self) -> float:
        """How far a parameter can move: the sum of the learning rates.

        Adam moves a parameter by about the learning rate at most in each update.
        """
        steps = (self.steps + 1) / 2 if self.schedule == "cosine" else self.steps
        return self.learning_rate * steps

    @property
    def transformation(self) -> optax.GradientTransformation:
        schedule = SCHEDULES[self.schedule](self.learning_rate, self.steps)
        adamw = optax.adamw(schedule, weight_decay=self.weight_decay)
        if self.clip is None:
            return adamw
        return optax.chain(optax.clip_by_global_norm(self.clip), adamw)


@dataclass(frozen=True)
class Transformation:
    """Any optax transformation, with an ``ema_rate`` as in ``Optimizer``.

    Its learning rate and schedule are its own, whatever the number of updates.
    """

    transformation: optax.GradientTransformation
    ema_rate: float = Optimizer.ema_rate

    def __post_init__(self):
        if not isinstance(self.transformation, optax.GradientTransformation):
            raise ValueError(
                "transformation must be an optax transformation, such as optax.adam(1e-3), not "
                f"{self.transformation!r}"
            )
        object.__setattr__(self, "ema_rate", python_number(self.ema_rate))
        _check_ema_rate(self.ema_rate)

    def over(self, steps: int) -> "Transformation":
        del steps
        return self


AnyOptimizer = Optimizer | Transformation | optax.GradientTransformation


def optimizer_of(
    value: AnyOptimizer, ema_rate: float = Optimizer.ema_rate
) -> Optimizer | Transformation:
    """``value``, a bare optax transformation with ``ema_rate``; raises ``ValueError`` for what is
    no optimizer."""
    if isinstance(value, optax.GradientTransformation):
        return Transformation(value, ema_rate)
    if not isinstance(value, Optimizer | Transformation):
        raise ValueError(
            "optimizer must be a psec_jax.Optimizer or an optax transformation, such as "
            f"optax.adam(1e-3), not {value!r}"
        )
    return value


@struct.dataclass
class TrainState:
    """The trainable parameters, their moving average, and the optimizer's state."""

    params: Any
    average: Any
    optimizer: optax.OptState

    @reprs.brief
    def __repr__(self):
        yield reprs.parameters(self.params)
        yield reprs.values(self)

    @classmethod
    def start(cls, params: Any, optimizer: AnyOptimizer) -> "TrainState":
        return cls(params, params, optimizer_of(optimizer).transformation.init(params))


def mean_loss(losses: Float[Array, "batch"], batch: Batch) -> Float[Array, ""]:
    """The mean over the batch, each sample multiplied by the batch's ``weights`` if it has any."""
    return jnp.mean(losses * batch["weights"] if "weights" in batch else losses)


def descend(
    loss: Callable[[Any], jax.Array], state: TrainState, optimizer: AnyOptimizer
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step down ``loss(params) -> scalar``; returns the new state and the loss."""
    optimizer = optimizer_of(optimizer)
    value, gradients = jax.value_and_grad(loss)(state.params)
    updates, moments = optimizer.transformation.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    average = optax.incremental_update(params, state.average, optimizer.ema_rate)
    return TrainState(params, average, moments), {"loss": value}


def _check_ema_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"ema_rate must be in (0, 1], not {rate!r}")
