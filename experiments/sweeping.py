"""Sweeps: the folder of a job follows from its words, so that the same sweep resumes in it."""

import hashlib
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

# A sweep may say these differently the second time.
PASSING = ("progress", "logger", "resume", "checkpoint", "optimize")


def job_folder(words: Sequence[str]) -> str:
    """The name of the folder of the job with these overrides, in whatever order.

    Readable as far as it goes, and different for different words.
    """
    kept = sorted(word for word in words if _key(word) not in PASSING)
    readable = re.sub(r"[^A-Za-z0-9=.+-]+", "_", ",".join(kept)).strip("_")[:80] or "defaults"
    return f"{readable}-{hashlib.sha256(str(kept).encode()).hexdigest()[:6]}"


def planned(sweep: Path) -> list[str]:
    """The names of all jobs' folders of the sweep that was last started in ``sweep``."""
    return job_folders(OmegaConf.load(sweep / "multirun.yaml").hydra)


def job_folders(said: DictConfig) -> list[str]:
    """The names of all jobs' folders by Hydra's own configuration of a sweep; none where its
    sweeper, such as Optuna's, makes jobs up, or where the user names their folders."""
    named = OmegaConf.to_container(said.sweep)["subdir"]
    if not said.sweeper._target_.endswith(".BasicSweeper") or "job_folder" not in str(named):
        return []
    # A study's own words come before those of the command line.
    words = [f"{key}={value}" for key, value in (said.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*words, *said.overrides.task])
    # Of what was said twice the last holds, as in the job.
    last = {override.get_key_element(): override for override in overrides}
    jobs = [[]]
    for override in last.values():
        if override.is_sweep_override():
            values = list(override.sweep_string_iterator())
        else:
            values = [override.get_value_element_as_str()]
        key = override.get_key_element()
        jobs = [[*job, f"{key}={value}"] for job in jobs for value in values]
    return [job_folder(job) for job in jobs]


def with_home(word: str) -> str:
    """A word of the command line with ``~/`` at the begin of a value as the user's home, as a
    shell has it elsewhere."""
    return re.sub(r"(?<=[=,\[])(['\"]?)~(?=/)", lambda found: found[1] + str(Path.home()), word)


def launcher(target: str, install: str) -> str:
    """The class ``target``; where it is missing, the program ends in one line that says how to
    ``install`` it."""
    try:
        import_module(target.rpartition(".")[0])
    except ImportError:
        sys.exit(f"error: this launcher is not installed: {install}")
    return target


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0]


# ``subdir: ${job_folder:${hydra.overrides.task}}``; here, as launchers' own processes need it too.
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
# ``_target_: ${launcher:…}`` in conf/hydra/launcher.
OmegaConf.register_new_resolver("launcher", launcher, replace=True)
