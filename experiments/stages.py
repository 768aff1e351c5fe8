"""What the stages of one seed of a run have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from experiments.config import Setting
from experiments.recording import Recorder
from psec_jax.training.seeds import named_key


@dataclass(frozen=True)
class Stages:
    """One seed of one configuration; subclasses hold what several methods build on, made once."""

    config: Setting
    seed: int
    out: Path
    recorder: Recorder

    def key(self, name: str) -> jax.Array:
        """The random key of the stage called ``name``."""
        return named_key(jax.random.key(self.seed), name)

    def fitting(self, label: str) -> dict[str, Any]:
        """What every call of a verb takes here."""
        return {
            "key": self.key(label),
            "label": f"{label} (seed {self.seed})",
            "progress": self.config.progress,
            **self.recorder.fit_options,
        }
