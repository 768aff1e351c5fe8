"""How a sweep ends: which of its jobs are not done, and why."""

import sys
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.status import Status
from experiments.sweep_status import states
from experiments.sweeping import job_folders


class Sweep(Callback):
    """The sweep that this process started, if any.

    Hydra makes it and tells it of the start. How it ends is asked for by ``launching``, as Hydra
    tells of no end where a launcher lost a job.
    """

    started: ClassVar["Sweep | None"] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a sweep that has one job twice: both would be at work in one folder."""
        names = job_folders(config.hydra)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            sys.exit(f"error: the sweep has a job twice: {', '.join(twice)}; name each value once")
        self.folder, self.names = Path(config.hydra.sweep.dir), names
        # Hydra's own sweeper writes the same; others write none.
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, self.folder / "multirun.yaml")
        self.before = self._written()
        Sweep.started = self

    def summarize(self) -> bool:
        """Whether all jobs are done; those that are not are printed, one a line."""
        own = self._own()
        left = {name: why for name, why in states(self.folder).items() if name in own}
        left = {name: why for name, why in left.items() if why[0] != "done"}
        if not left:
            return True
        if {state for state, _ in left.values()} == {"missing"} and len(left) == len(own):
            print(f"none of the {len(own)} jobs of {self.folder} has begun", file=sys.stderr)
            return False
        print(f"\n{len(left)} of {len(own)} jobs are not done:", file=sys.stderr)
        for name, (state, error) in left.items():
            print(f"{state:12}{self.folder / name}  {error}".rstrip(), file=sys.stderr)
        if self.names:
            print("the same command runs these again, and no others", file=sys.stderr)
        return False

    def _own(self) -> set[str]:
        """The names of the folders of this sweep's jobs, of which an older one may have left
        others there. Where a sweeper makes them up they are those that were written to."""
        if self.names:
            return set(self.names)
        written = self._written()
        return {name for name in written if written[name] != self.before.get(name)}

    def _written(self) -> dict[str, int]:
        """Job's folder → when its status was written."""
        return {
            path.parent.name: path.stat().st_mtime_ns
            for path in self.folder.glob(f"*/{Status.FILE}")
        }
