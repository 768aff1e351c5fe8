"""Behavior policies: small trained actors in numpy, from which datasets are rolled out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from psec_jax import storage
from psec_jax.errors import BrokenFile

_ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}
_SQUASHES = {"tanh": np.tanh, "clip": lambda x: np.clip(x, -1, 1)}


@dataclass(frozen=True, eq=False)
class BehaviorPolicy:
    """A deterministic actor: an MLP on raw observations whose output is squashed into [−1, 1].

    ``weights`` are ``hidden_<i>/kernel`` (in, out) and ``/bias`` of each hidden layer, and those
    of ``mean``; ``activation`` is ``relu`` or ``tanh``, ``squash`` is ``tanh`` or ``clip``.
    ``provenance`` says where it comes from: environment, training, and measured return and cost.
    """

    weights: dict[str, np.ndarray]
    activation: str
    squash: str
    provenance: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path, name: str) -> "BehaviorPolicy":
        """The policy in ``<name>.safetensors`` and ``.json``; raises ``BrokenFile`` if none."""
        storage.check_name(name, "policy")
        folder = storage.expanded(folder)
        weights, _ = storage.read_tensors(folder / f"{name}.safetensors")
        metadata = storage.read_json(folder / f"{name}.json")
        activation, squash = metadata.get("activation"), metadata.get("squash")
        if activation not in _ACTIVATIONS or squash not in _SQUASHES:
            raise BrokenFile(
                f"{folder / name}.json has activation {activation!r} and squash {squash!r}; "
                f"expected one of {list(_ACTIVATIONS)} and one of {list(_SQUASHES)}"
            )
        if not {"mean/kernel", "mean/bias"} <= set(weights):
            raise BrokenFile(f"{folder / name}.safetensors holds no actor: {sorted(weights)}")
        return cls(weights, activation, squash, metadata)

    def save(self, folder: str | Path, name: str) -> None:
        storage.check_name(name, "policy")
        folder = storage.expanded(folder)
        with storage.new_file(folder / f"{name}.safetensors") as temporary:
            storage.write_tensors(temporary, self.weights)
        with storage.new_file(folder / f"{name}.json") as temporary:
            metadata = {**self.provenance, "activation": self.activation, "squash": self.squash}
            storage.write_json(temporary, metadata)

    def __call__(
        self, observations: Float[np.ndarray, "batch observation"]
    ) -> Float[np.ndarray, "batch action"]:
        """Actions for raw observations."""
        h = np.asarray(observations, np.float32)
        for index in range(sum(name.startswith("hidden_") for name in self.weights) // 2):
            h = _ACTIVATIONS[self.activation](self._dense(f"hidden_{index}", h))
        return _SQUASHES[self.squash](self._dense("mean", h))

    def _dense(self, layer: str, inputs: np.ndarray) -> np.ndarray:
        return inputs @ self.weights[f"{layer}/kernel"] + self.weights[f"{layer}/bias"]
