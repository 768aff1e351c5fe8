"""How critics are learned in offline RL, and how they guide what is learned beside them."""

from collections.abc import Mapping
from dataclasses import dataclass

from psec_jax.data.dataset import TransitionDataset
from psec_jax.learners.actors import ActorLoss
from psec_jax.learners.critics import TARGET_RATE, CriticLearner
from psec_jax.learners.objectives import Objective, Return
from psec_jax.learners.optimizer import AnyOptimizer, Optimizer, optimizer_of
from psec_jax.learners.weights import AdvantageWeights, Weigh
from psec_jax.networks import Critic
from psec_jax.policies import Statistics
from psec_jax.settings import python_number
from psec_jax.storage import check_name

OPTIMIZER = Optimizer(weight_decay=0.0, ema_rate=TARGET_RATE)


@dataclass(frozen=True)
class Guidance:
    """``objectives`` says by name what each critic is the value of, by default the ``return`` with
    rewards scaled to the data.

    ``weights`` says what each sample is weighed by: one function of the critics (``Weigh``), or a
    mapping from each skill that is to be learned to its own, or to None where it weighs nothing.
    By default samples are weighed by their advantage in the return, but under another ``loss``
    than imitation (``learners.actors``) they are not weighed.

    ``expectile`` is one for all critics or one for each by name. ``value_network`` is V's where it
    is another than Q's. ``optimizer`` is the critics'; its ``ema_rate`` is the target networks'.
    """

    objectives: Mapping[str, Objective] | None = None
    weights: Weigh | Mapping[str, Weigh | None] | None = None
    loss: ActorLoss | None = None
    expectile: float | Mapping[str, float] = 0.7
    value_network: Critic | None = None
    optimizer: AnyOptimizer = OPTIMIZER

    def __post_init__(self):
        object.__setattr__(self, "optimizer", optimizer_of(self.optimizer, TARGET_RATE))
        object.__setattr__(self, "expectile", python_number(self.expectile))
        if self.objectives is not None and not self.objectives:
            raise ValueError("objectives need at least one entry, such as {'return': Return()}")
        critics = sorted(self._critics)
        if isinstance(self.expectile, Mapping) and sorted(self.expectile) != critics:
            raise ValueError(
                f"expectile names {sorted(self.expectile)}, but the critics are {critics}; give "
                "one number for all, or one for each"
            )
        for name, expectile in self.expectiles.items():
            if not 0 < expectile < 1:
                raise ValueError(f"expectile of {name!r} must be in (0, 1), not {expectile!r}")
        if isinstance(self.weights, Mapping) and not self.weights:
            raise ValueError("weights need at least one skill, such as {'skill': None}")
        for name, weigh in self.weights_of("skill").items():
            check_name(name)
            if weigh is not None and not callable(weigh):
                raise ValueError(
                    f"weights of {name!r} must be a function of the critics, such as "
                    f"psec_jax.weights.AdvantageWeights(), or None, not {weigh!r}"
                )

    @property
    def expectiles(self) -> dict[str, float]:
        """Each critic's, by name."""
        if isinstance(self.expectile, Mapping):
            return dict(self.expectile)
        return dict.fromkeys(self._critics, self.expectile)

    @property
    def _critics(self) -> tuple[str, ...]:
        return ("return",) if self.objectives is None else tuple(self.objectives)

    def weights_of(self, name: str) -> dict[str, Weigh | None]:
        """What each skill's samples are weighed by; one skill called ``name`` where the weights
        name none."""
        if isinstance(self.weights, Mapping):
            return dict(self.weights)
        if self.weights is None and self.loss is None:
            return {name: AdvantageWeights()}
        return {name: self.weights}

    def critics(
        self, statistics: Statistics, data: TransitionDataset, steps: int
    ) -> dict[str, CriticLearner]:
        """Learners of the critics on ``data``, by name."""
        objectives = self.objectives
        if objectives is None:
            objectives = {"return": Return.scaled_to(data)}
        optimizer = optimizer_of(self.optimizer, TARGET_RATE).over(steps)
        return {
            name: CriticLearner(
                statistics,
                objective,
                optimizer,
                self.expectiles[name],
                value_network=self.value_network,
            )
            for name, objective in objectives.items()
        }
