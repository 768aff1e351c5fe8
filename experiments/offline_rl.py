"""What the settings that learn by critics have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psec_jax as psec
from experiments import stages
from experiments.settings import OfflineRL
from experiments.stages import by_seed
from psec_jax import learners
from psec_jax.acting import Actor
from psec_jax.backbones import Backbone
from psec_jax.learners import FeasibleFirst
from psec_jax.learners.objectives import Objective, Return
from psec_jax.learners.weights import Weigh
from psec_jax.training.seeds import for_each_seed

Data = psec.TransitionDataset | list[psec.TransitionDataset]
Critics = Mapping[str, learners.Critics]


@dataclass(frozen=True, eq=False)
class Run(stages.Run):
    """Where ``data`` are a list, each seed has its own."""

    config: OfflineRL

    def guidance(self, data: Data, weights: Any) -> list[psec.Guidance]:
        """As configured, with other ``weights``, and rewards scaled to each seed's data."""
        guidance = replace(self.config.guidance, weights=weights)
        return [
            replace(guidance, objectives=scaled(self.config.objectives, dataset))
            for dataset in self.each(data)
        ]

    def learn_skills(
        self, label: str, data: Data, weights: Mapping[str, Weigh | None], dataset: str
    ) -> list[Critics]:
        """One skill for each of ``weights``, put into the libraries; returns their critics."""
        skills, critics = psec.learn_skills(
            self.bases,
            data,
            adapter=self.config.adapter,
            guidance=self.guidance(data, weights),
            **self.fitting(self.config.skill, label),
        )
        for name in weights:
            self.keep(name, [trained[name] for trained in by_seed(skills)], dataset)
        return by_seed(critics)

    def improve(
        self, label: str, data: Data, policies: list[psec.Policy], weights: Weigh | None
    ) -> tuple[list[psec.Policy], list[Critics]]:
        """Offline RL on all parameters of each policy."""
        improved, critics = psec.improve(
            policies,
            data,
            guidance=self.guidance(data, weights),
            **self.fitting(self.config.scratch, label),
        )
        return by_seed(improved), by_seed(critics)

    def fresh(self, label: str, data: Data, backbone: Backbone | None = None) -> list[psec.Policy]:
        """Untrained policies, of the configured backbone where None is given."""
        each = self.each(data)
        if backbone is None:
            backbone = self.config.backbone(action_size=each[0].action_size)
        return [
            psec.Policy.create(backbone, self.config.statistics(dataset), key)
            for dataset, key in zip(each, self.key(f"create {label}"), strict=True)
        ]

    def best_of(self, policies: Sequence[Actor], critics: Sequence[Critics]) -> list:
        """Each policy acting by the best of some samples."""
        plan = self.config.best_of
        if plan.candidates == 1:
            return list(policies)

        def scorer(own: Critics) -> learners.Critics | FeasibleFirst:
            if plan.among_feasible is None:
                return own[plan.critic]
            return FeasibleFirst(own[plan.critic], own[plan.among_feasible])

        return [
            psec.BestOf(policy, scorer(own), plan.candidates)
            for policy, own in zip(policies, critics, strict=True)
        ]

    def seen(self, data: psec.TransitionDataset) -> psec.TransitionDataset:
        """As critics see them."""
        terminal = self.config.timeouts_terminal
        return data.truncations_as_terminations() if terminal else data

    def each(self, data: Data) -> list[psec.TransitionDataset]:
        return for_each_seed(data, len(self.seeds), "data")


def scaled(
    objectives: Mapping[str, Objective], data: psec.TransitionDataset
) -> dict[str, Objective]:
    """With the rewards of returns scaled to ``data``, so that one temperature fits all robots."""
    return {
        name: replace(each, scale=each.scale * Return.scaled_to(data).scale)
        if isinstance(each, Return)
        else each
        for name, each in objectives.items()
    }
