"""One of the files that the paper's authors published: the states of the agents that it holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from psec_jax import storage
from psec_jax.diffusion import vp_schedule
from psec_jax.errors import BrokenFile
from psec_jax.skills.unpickling import Leaf, read_state

Tensors = dict[str, np.ndarray]

# The averaged weights of the pretrained policy, which are what acts.
BASE = "target_score_model"
PRETRAINED, FIRST = "pretrain_weights", "lora0"


@dataclass
class AgentState:
    """The state of one agent in a file: what lies under ``prefix`` in it.

    Agents nest. Skills hold the pretrained agent that they were trained on (``PRETRAINED``), a
    composition also the agent of its first skills (``FIRST``). ``taken`` collects the entries of
    the file that were used, by their path; agents of one file share it.
    """

    file: Path
    leaves: Mapping[str, Leaf]
    prefix: str = ""
    taken: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, file: str | Path) -> "AgentState":
        """Raises ``BrokenFile`` for a file that is damaged or asks for more than arrays."""
        file = storage.expanded(file)
        return cls(file, read_state(file))

    def inside(self, agent: str) -> "AgentState":
        return AgentState(self.file, self.leaves, f"{self.prefix}{agent}/", self.taken)

    def holds(self, entry: str) -> bool:
        return any(name.startswith(f"{self.prefix}{entry}/") for name in self.leaves)

    @property
    def is_dynamic(self) -> bool:
        """Whether it is a skill, or composes skills, of the branch dynamic; the others are of the
        safe setting."""
        skill = f"{self.prefix}{BASE}/params/LoRA"
        return self.holds("composition") or any(name.startswith(skill) for name in self.leaves)

    def tensors(self, entry: str, stacked: int = 0) -> Tensors:
        """The parameters of one train state, by their path in it.

        Finite float32: kernels are matrices, all else vectors, ``stacked`` along as many leading
        axes. Raises ``BrokenFile`` for anything else.
        """
        prefix = f"{self.prefix}{entry}/params/"
        tensors = {
            name.removeprefix(prefix): np.asarray(value)
            for name, value in self.leaves.items()
            if name.startswith(prefix)
        }
        if not tensors:
            raise BrokenFile(f"{self.file} holds no {prefix[:-1]}; it holds {self._names()}")
        for name, value in tensors.items():
            matrix = name.endswith(("kernel", "lora_a", "lora_b"))
            if value.dtype != np.float32 or 0 in value.shape or value.ndim != 1 + matrix + stacked:
                raise BrokenFile(
                    f"{self.file}: {prefix}{name} is {value.dtype} of shape {value.shape}, "
                    f"expected a float32 {'matrix' if matrix else 'vector'}"
                    f"{' for each of an ensemble' if stacked else ''}"
                )
            if not np.isfinite(value).all():
                raise BrokenFile(f"{self.file}: {prefix}{name} holds values that are not finite")
        self.taken.add(f"{self.prefix}{entry}")
        return tensors

    def number(self, name: str) -> float | None:
        """One number, or None where the file records nothing under this name."""
        value = self.leaves.get(f"{self.prefix}{name}")
        if value is None:
            return None
        if np.size(value) != 1 or not np.isfinite(value).all():
            raise BrokenFile(
                f"{self.file}: {self.prefix}{name} is not one finite number, but "
                f"{np.ravel(value)[:4].tolist()} of shape {np.shape(value)}"
            )
        self.taken.add(f"{self.prefix}{name}")
        return float(np.ravel(value)[0])

    def diffusion_steps(self) -> int | None:
        """T of the noise schedule that the agent samples by, where the file records it.

        Raises ``BrokenFile`` for another schedule than the paper's, or noise at another
        temperature than 1.
        """
        temperature = self.number("ddpm_temperature")
        if temperature not in (None, 1.0):
            raise BrokenFile(
                f"{self.file}: {self.prefix}ddpm_temperature is {temperature}; only agents that "
                "sample at temperature 1 can be imported"
            )
        betas = self.leaves.get(f"{self.prefix}betas")
        if betas is None:
            return None
        steps = np.size(betas)
        schedule = vp_schedule(max(1, steps))
        expected = {
            "betas": 1 - schedule.alphas,
            "alphas": schedule.alphas,
            "alpha_hats": schedule.alpha_bars,
        }
        for name, values in expected.items():
            actual = np.ravel(self.leaves.get(f"{self.prefix}{name}", values))
            if actual.shape != values.shape or not np.allclose(actual, values, atol=1e-4):
                raise BrokenFile(
                    f"{self.file}: {self.prefix}{name} are not the paper's vp schedule of {steps} "
                    "steps"
                )
            if f"{self.prefix}{name}" in self.leaves:
                self.taken.add(f"{self.prefix}{name}")
        return steps

    def left_out(self) -> list[str]:
        """The entries of the whole file that were not used; an agent of which nothing was, as
        one."""
        entries = {_entry(name) for name in self.leaves} - self.taken
        for agent in sorted({entry.rpartition("/")[0] for entry in entries} - {""}):
            if not any(name.startswith(f"{agent}/") for name in self.taken):
                entries = {e for e in entries if not e.startswith(f"{agent}/")} | {agent}
        return sorted(entries)

    def _names(self) -> list[str]:
        start = len(self.prefix)
        inside = (name[start:] for name in self.leaves if name.startswith(self.prefix))
        return sorted({name.split("/")[0] for name in inside})


def _entry(path: str) -> str:
    """The path of a train state or setting: that of a leaf as far as the agent's own entry."""
    parts = path.split("/")
    depth = 0
    while parts[depth] in (PRETRAINED, FIRST) and depth + 1 < len(parts):
        depth += 1
    return "/".join(parts[: depth + 1])
