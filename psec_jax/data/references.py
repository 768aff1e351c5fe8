"""The public datasets by name: where they are, and the returns and costs that scores refer to."""

import difflib
import functools
import importlib.util
import json
import re
import runpy
from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True)
class Reference:
    """A public dataset: its file's address, and what scores on its task are measured by.

    ``low_return`` and ``high_return`` are normalized to 0 and 1: for D4RL those of a random and
    an expert policy, for DSRL the least and greatest in the data. ``environment`` is the id of
    the matching environment, where there is one here.
    """

    name: str
    url: str
    low_return: float | None
    high_return: float | None
    environment: str | None = None
    horizon: int | None = None

    @property
    def family(self) -> str:
        """``d4rl`` or ``dsrl``."""
        return self.name.partition("/")[0]

    @property
    def file(self) -> str:
        """The file's name, also that of a copy on this machine."""
        return self.url.rpartition("/")[2]


@functools.cache
def references() -> dict[str, Reference]:
    """Every public dataset that is known here, by its name.

    Those are ``d4rl/<name>`` for D4RL's MuJoCo data, and all of D4RL's where the ``d4rl`` package
    is installed, and ``dsrl/<task>`` for DSRL's 38.
    """
    return _d4rl() | _dsrl()


def find_reference(name: str) -> Reference:
    """The dataset ``name``, with or without its family, or as DSRL's environments are called.

    ``walker2d-medium-v2``, ``d4rl/walker2d-medium-v2``, ``dsrl/CarRun``, ``OfflineCarRun-v0`` and
    ``OfflineMetadrive-easymean-v0`` are such names. Raises ``ValueError`` with the closest ones.
    """
    lowered = {known.lower(): reference for known, reference in references().items()}
    plain = _plain(name)
    for candidate in (plain, f"d4rl/{plain}", f"dsrl/{plain}"):
        if candidate in lowered:
            return lowered[candidate]
    close = closest(name, references())
    raise ValueError(f"unknown dataset {name!r}; did you mean {' or '.join(close)}?")


def closest(name: str, names) -> list[str]:
    """Of ``names``, the three most like ``name``, with or without their family."""
    short = {known.partition("/")[2]: known for known in names}
    lowered = {known.lower(): known for known in (*names, *short)}
    matches = difflib.get_close_matches(_plain(name), lowered, n=3, cutoff=0.4)
    full = [short.get(lowered[match], lowered[match]) for match in matches]
    return list(dict.fromkeys(full)) or list(names)[:3]


def _plain(name: str) -> str:
    """``name`` in small letters, and ``dsrl/carrun`` for ``OfflineCarRun-v0``."""
    environment = r"(?:dsrl/)?offline(?:metadrive-)?(.+?)(?:gymnasium)?-v\d+"
    match = re.fullmatch(environment, name.lower())
    return f"dsrl/{match[1]}" if match else name.lower()


def _d4rl() -> dict[str, Reference]:
    table = {
        name: (entry["url"], entry["ref_min_return"], entry["ref_max_return"])
        for name, entry in _asset("d4rl.json").items()
    }
    datasets = {}
    for name, (url, low, high) in (installed_d4rl() | table).items():
        robot = re.fullmatch(r"(halfcheetah|hopper|walker2d|ant)-.*-v2", name)
        environment = f"mujoco/{robot[1]}-v4" if robot else None
        horizon = 1000 if robot else None
        datasets[f"d4rl/{name}"] = Reference(f"d4rl/{name}", url, low, high, environment, horizon)
    return datasets


def installed_d4rl() -> dict[str, tuple[str, float | None, float | None]]:
    """Name → (URL, random return, expert return) in the ``d4rl`` package; empty without it.

    Its table is one file that imports nothing; the package itself needs MuJoCo 2.1.
    """
    package = importlib.util.find_spec("d4rl")
    if package is None or package.origin is None:
        return {}
    file = Path(package.origin).with_name("infos.py")
    if not file.is_file():
        return {}
    infos = runpy.run_path(str(file))
    low, high = infos["REF_MIN_SCORE"], infos["REF_MAX_SCORE"]
    return {
        name: (url, low.get(name), high.get(name)) for name, url in infos["DATASET_URLS"].items()
    }


def _dsrl() -> dict[str, Reference]:
    table = _asset("dsrl.json")
    simulators = {"bullet_safety_gym": "bullet", "metadrive": "metadrive"}
    datasets = {}
    for task, entry in table["tasks"].items():
        simulator = simulators.get(entry["family"])
        datasets[f"dsrl/{task}"] = Reference(
            f"dsrl/{task}",
            table["base_url"] + entry["file"],
            entry["min_episode_return"],
            entry["max_episode_return"],
            f"{simulator}/{task.lower()}" if simulator else None,
            entry["max_episode_steps"],
        )
    return datasets


def _asset(name: str) -> dict:
    return json.loads((resources.files("psec_jax") / "assets" / "references" / name).read_text())
