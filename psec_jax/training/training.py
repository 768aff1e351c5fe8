"""How something is trained: how long, on how much at once, and what happens beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psec_jax.learners.optimizer import AnyOptimizer, optimizer_of
from psec_jax.settings import integer_of
from psec_jax.training.checkpoints import Checkpoints
from psec_jax.training.metrics import Writer


@dataclass(frozen=True)
class Training:
    """``steps`` updates on minibatches of ``batch_size`` samples.

    ``optimizer`` is an ``Optimizer``, whose schedule then takes these ``steps``, or any optax
    transformation; None is the verb's own choice.

    ``chunk`` updates run in one compiled program. The mean of each metric over a chunk goes to
    ``writer``, and to a progress bar with ``progress``, under ``label`` (a list for several
    seeds).

    After ``every`` updates, and the last, ``inspect(step, trained)`` is called in a thread beside
    the training, one call at a time, with what the verb would return, or the state of a ``fit``.
    It has returned before a later state is saved.

    With ``checkpoints`` the states of this ``label`` are saved there, and training resumes from
    the last of them: the result is the same as if it had never stopped. ``inspect`` may return how
    good the state is, for several seeds a list or their mean. The best state of those that are
    saved then is kept too, and with ``best`` it is returned in place of the last, for one seed
    only.
    """

    steps: int
    batch_size: int = 256
    optimizer: AnyOptimizer | None = None
    label: str | list[str] | None = None
    writer: Writer | None = None
    progress: bool = False
    checkpoints: Checkpoints | None = None
    every: int | None = None
    inspect: Callable[[int, Any], Any] | None = None
    best: bool = False
    chunk: int = 100

    def __post_init__(self):
        for name in ("steps", "batch_size", "every", "chunk"):
            value = getattr(self, name)
            if value is not None or name != "every":
                object.__setattr__(self, name, integer_of(name, value))
        if self.optimizer is not None:
            optimizer_of(self.optimizer)
        if self.checkpoints is not None and self.label is None:
            raise ValueError("checkpoints need a label, which names the states of this training")
        if self.inspect is not None and not callable(self.inspect):
            raise ValueError(f"inspect must be a function, not {self.inspect!r}")
        if self.best and (self.checkpoints is None or self.inspect is None):
            raise ValueError("best needs checkpoints, and an inspect that scores a state")


def check_training(value: Training) -> None:
    """Raise ``ValueError`` for anything else, such as a bare number of steps."""
    if not isinstance(value, Training):
        raise ValueError(
            f"training must be a psec_jax.Training, such as Training(20_000), not {value!r}"
        )
