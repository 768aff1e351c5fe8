"""Datasets that are made here: which behavior policies are rolled out, where and how often."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psec_jax import storage
from psec_jax.data.dataset import TransitionDataset
from psec_jax.envs.metadrive import check_driver
from psec_jax.errors import BrokenFile


@dataclass(frozen=True)
class Part:
    """``trajectories`` episodes of one policy, with normal ``noise`` added to its actions.

    ``policy`` is the name of one in the folder, or of a driver in the recipe.
    """

    policy: str
    trajectories: int
    noise: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How a dataset is made, and what a trajectory of it was measured to return and cost.

    The policies of its ``parts`` lie in ``folder``, or are ``drivers``: MetaDrive's own, with the
    settings in ``psec_jax.envs.metadrive.DRIVER``. ``command`` is what made them. Costs are None
    where the environment has none, and all four numbers before they are measured.

    Raises ``ValueError`` for a driver with unknown settings or outside MetaDrive.
    """

    about: str
    environment: str
    parts: tuple[Part, ...]
    folder: Path
    return_mean: float | None = None
    return_std: float | None = None
    cost_mean: float | None = None
    cost_std: float | None = None
    command: str = ""
    drivers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        if self.drivers and not self.environment.startswith("metadrive/"):
            raise ValueError(
                f"{self.environment} has no drivers, only metadrive/ environments have; remove "
                f"{', '.join(self.drivers)}"
            )
        for settings in self.drivers.values():
            check_driver(settings)

    @property
    def has_costs(self) -> bool:
        return self.environment.startswith(("bullet/", "metadrive/"))

    @property
    def trajectories(self) -> int:
        return sum(part.trajectories for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits of what the data follow from: mixture, policies, simulator."""
        digest = hashlib.sha256(f"{self.environment} {self.parts}".encode())
        for part in self.parts:
            if part.policy in self.drivers:
                settings = json.dumps(self.drivers[part.policy], sort_keys=True)
                digest.update(settings.encode())
            else:
                digest.update((self.folder / f"{part.policy}.safetensors").read_bytes())
        return digest.hexdigest()[:8]

    def of_size(self, trajectories: int) -> "Recipe":
        """The same mixture with so many trajectories in all."""
        total, ends, parts = self.trajectories, [0], []
        for part in self.parts:
            ends.append(ends[-1] + part.trajectories)
        bounds = [round(end * trajectories / total) for end in ends]
        for part, start, end in zip(self.parts, bounds, bounds[1:], strict=False):
            if end > start:
                parts.append(dataclasses.replace(part, trajectories=end - start))
        return dataclasses.replace(self, parts=tuple(parts))

    def measured(self, data: TransitionDataset) -> "Recipe":
        """With the return and cost of ``data``, which were made by it."""
        statistics = {"return_mean": data.returns.mean(), "return_std": data.returns.std()}
        if self.has_costs:
            statistics |= {
                "cost_mean": data.cost_returns.mean(),
                "cost_std": data.cost_returns.std(),
            }
        return dataclasses.replace(self, **{name: float(x) for name, x in statistics.items()})

    @property
    def measure(self) -> str:
        """The measured return and cost as text."""
        text = f"return {self.return_mean:.1f} ± {self.return_std:.1f}"
        if self.cost_mean is not None:
            text += f", cost {self.cost_mean:.1f} ± {self.cost_std:.1f}"
        return text

    def save(self, name: str) -> Path:
        """Write the recipe as ``<folder>/<name>.dataset.json``."""
        metadata = dataclasses.asdict(self)
        del metadata["folder"]
        path = self.folder / f"{storage.check_name(name, 'dataset')}{_SUFFIX}"
        # Meant to be edited by hand, so without a checksum.
        storage.write_text(path, json.dumps(metadata, indent=2, sort_keys=True) + "\n")
        return path


_SUFFIX = ".dataset.json"


def read_recipes(folder: str | Path) -> Iterator[tuple[str, Recipe]]:
    """The name and recipe of every dataset described in ``folder``; ``BrokenFile`` names a bad
    description."""
    for path in sorted(storage.expanded(folder).glob(f"*{_SUFFIX}")):
        yield path.name.removesuffix(_SUFFIX), _recipe(storage.read_json(path), path)


def _recipe(metadata: Mapping[str, Any], path: Path) -> Recipe:
    try:
        parts = tuple(Part(**part) for part in metadata["parts"])
        return Recipe(**{**metadata, "parts": parts, "folder": path.parent})
    except (TypeError, KeyError, ValueError) as error:
        raise BrokenFile(f"{path} describes no dataset: {error}") from None
