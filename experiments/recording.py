"""Where a run's numbers, tables and figures go: its output folder, and W&B where asked."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import ConfigError, Logger
from experiments.status import alone_in
from experiments.sweeping import PASSING
from psec_jax import Evaluation, SkillLibrary, TransitionDataset, storage
from psec_jax.evaluation import Trace
from psec_jax.evaluation.statistics import Summary
from psec_jax.report import figures, results, videos
from psec_jax.training import Checkpoints
from psec_jax.training.metrics import JsonLines, Wandb, Writer, Writers

WANDB_VARIABLES = ("MODE", "PROJECT", "ENTITY", "RUN_GROUP", "NAME", "TAGS", "DIR")
# WANDB_MODE → the mode; the last two are W&B's older names.
WANDB_MODES = {mode: mode for mode in ("online", "offline", "disabled", "shared")}
WANDB_MODES |= {"dryrun": "offline", "run": "online"}


class Recorder:
    """Writes into one output folder: ``results.jsonl``, ``metrics.jsonl``, tables, figures, and
    until everything is measured the states of learning in ``checkpoints``."""

    def __init__(self, out: Path, wandb: Wandb | None = None, **checkpoints: int):
        self.out = out
        self._wandb = wandb
        storage.repair_lines(self._results)
        self.checkpoints = Checkpoints(out / "checkpoints", **checkpoints)
        self._local = JsonLines(out / "metrics.jsonl")
        self.writer: Writer = self._local if wandb is None else Writers((self._local, wandb))

    @property
    def _results(self) -> Path:
        return self.out / "results.jsonl"

    def evaluation(
        self,
        *,
        setting: str,
        task: str,
        method: str,
        seed: int,
        step: int,
        evaluation: Evaluation,
        metric: str = "return",
    ) -> None:
        """One measurement: the mean return (or cost), with every single one beside it.

        One that is there already, as after an interruption, is not written again.
        """
        if self.has(method, task, seed, metric, step):
            return
        found = evaluation.costs if metric == "cost" else evaluation.returns
        values, mean = tuple(float(value) for value in found), float(np.mean(found))
        row = results.Measurement(setting, task, method, seed, metric, mean, step, values)
        results.append(self._results, row)
        if metric != "cost":
            print(f"{task} {method} (seed {seed}, step {step}): {metric} {evaluation}", flush=True)
        if self._wandb is not None:
            name = f"{method} {task} (seed {seed})"
            self._wandb.write(name, step, {metric: mean, f"{metric}_std": float(np.std(found))})

    def demonstrations(
        self, data: TransitionDataset, *, setting: str, task: str, seed: int
    ) -> None:
        """The return of the demonstrations themselves, where they have rewards."""
        if data.rewards is None or self.has("demonstrations", task, seed, "demonstrations"):
            return
        values = tuple(float(value) for value in data.returns)
        row = results.Measurement(
            setting,
            task,
            "demonstrations",
            seed,
            "demonstrations",
            float(data.returns.mean()),
            0,
            values,
        )
        results.append(self._results, row)

    def has(self, method: str, task: str, seed: int, metric: str, step: int | None = None) -> bool:
        """Whether this was measured before (at ``step``, or any), so that a run started again goes
        on after it."""
        wanted = (method, task, seed, metric)
        return any(
            (row.method, row.task, row.seed, row.metric) == wanted and step in (None, row.step)
            for row in self.measurements()
        )

    def measurements(self) -> list[results.Measurement]:
        """Everything that was measured so far."""
        return results.read([self._results]) if self._results.exists() else []

    def summaries(self, metric: str) -> dict[tuple[str, str], Summary]:
        return results.summaries(self.measurements(), metric)

    def trace(self, name: str, trace: Trace, skills: Sequence[str], title: str) -> None:
        """Weights over an episode, as ``<name>.csv`` and ``<name>.png``, and its pictures as
        ``<name>_strip.png`` and ``<name>.gif``."""
        names = [*(f"weight_{skill}" for skill in skills), "reward", "cost"]
        header = ",".join(["step", *names])
        steps = np.arange(len(trace.rewards))
        table = np.column_stack([steps, trace.weights, trace.rewards, trace.costs])
        with storage.new_file(self.out / f"{name}.csv") as path:
            np.savetxt(path, table, delimiter=",", header=header, comments="", fmt="%.6g")
        path = self.out / f"{name}.png"
        figures.weights_over_episode(path, trace, skills, title)
        self.figure(path)
        if trace.pictures:
            path = self.out / f"{name}_strip.png"
            figures.picture_strip(path, trace, skills, title=title)
            self.figure(path)
            path = self.out / f"{name}.gif"
            videos.animation(path, [picture for _, picture in trace.pictures])
            if self._wandb is not None:
                self._wandb.video(path.stem, path)
        if self._wandb is not None:
            for step, *values in table.tolist():
                self._wandb.write(name, int(step), dict(zip(names, values, strict=True)))

    def text(self, name: str, content: str) -> None:
        storage.write_text(self.out / name, content)
        if self._wandb is not None:
            self._wandb.summary(name, content)

    def figure(self, path: Path) -> None:
        if self._wandb is not None:
            self._wandb.image(path.stem, path)

    def library(self, path: Path) -> None:
        """A skill library as a W&B artifact, with its base and each skill's provenance."""
        if self._wandb is None:
            return
        library = SkillLibrary.open(path)
        skills = {name: dict(library.get(name).provenance) for name in library.names()}
        facts = {"base": library.fingerprint, "skills": skills}
        self._wandb.folder(f"{self.out.name}-{path.parent.name}", "skill-library", path, facts)

    def close(self) -> None:
        self._local.close()
        if self._wandb is not None and (rows := self.measurements()):
            _tabulate(rows, self._wandb)


def _tabulate(rows: Sequence[results.Measurement], wandb: Wandb) -> None:
    """Every measurement so far in one table, and of each metric the means over seeds in another
    and in the run's summary."""
    names = ("setting", "task", "method", "seed", "metric", "step", "value", "values")
    wandb.table("results", names, [[getattr(row, name) for name in names] for row in rows])
    for metric in dict.fromkeys(row.metric for row in rows):
        means = []
        for (method, task), found in results.summaries(rows, metric).items():
            name = f"{method} {task}"
            means.append([name, found.mean, found.low, found.high, found.episodes, found.seeds])
            wandb.summary(f"{metric}/{name}", found.mean)
        columns = ("label", "mean", "low", "high", "episodes", "seeds")
        wandb.table(f"means_{metric}", columns, means)


@contextmanager
def start_recording(
    out: Path, config: Mapping[str, Any], logger: Logger, **checkpoints: int
) -> Iterator[Recorder]:
    """A recorder for ``out``, with the resolved configuration written there first.

    ``checkpoints`` are the numbers of ``Checkpoints``. Raises ``ConfigError`` if ``out`` holds a
    run of another configuration, with what differs.
    """
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        yield from _recording(out, config, logger, checkpoints)


def _recording(out, config, logger, checkpoints) -> Iterator[Recorder]:
    _refuse_another(out, config)
    storage.write_text(
        out / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    )
    run = nullcontext()
    if logger.kind == "wandb":
        lasting = {key: value for key, value in config.items() if key not in PASSING}
        identity = json.dumps(lasting, sort_keys=True)
        try:
            run = Wandb(out, config, identity=identity, **wandb_options(logger))
        except ImportError as error:
            print(f"{error}; this run is kept in local files only", flush=True)
    with run as wandb, closing(Recorder(out, wandb, **checkpoints)) as recorder:
        yield recorder


def wandb_options(logger: Logger) -> dict[str, Any]:
    """What ``Wandb`` is told: as ``logger`` says, else as W&B's own variables do.

    Raises ``ConfigError`` for a WANDB_MODE that W&B does not know.
    """
    said = {name: os.environ.get(f"WANDB_{name}") or None for name in WANDB_VARIABLES}
    mode = WANDB_MODES.get(said["MODE"] or "online")
    if mode is None:
        raise ConfigError(
            f"WANDB_MODE {said['MODE']!r} is unknown; use one of {', '.join(WANDB_MODES)}"
        )
    tags = [tag.strip() for tag in (said["TAGS"] or "").split(",")]
    options = {
        "mode": logger.mode or mode,
        "project": logger.project or said["PROJECT"] or "psec-jax",
        "entity": logger.entity or said["ENTITY"],
        "group": logger.group or said["RUN_GROUP"],
        "name": logger.name or said["NAME"],
        "tags": logger.tags if logger.tags is not None else [tag for tag in tags if tag] or None,
    }
    if said["DIR"] is not None:
        options["files"] = Path(said["DIR"]).expanduser().absolute()
        # W&B would take a temporary folder for one that is not there.
        options["files"].mkdir(parents=True, exist_ok=True)
    return options


def _refuse_another(out: Path, config: Mapping[str, Any]) -> None:
    path = out / "config.json"
    if not path.exists():
        return
    if different := differences(json.loads(path.read_text()), config):
        lines = [
            f"  {name}: {there} there, {here} now" for name, (there, here) in different.items()
        ]
        raise ConfigError(
            f"{out} holds a run of another configuration; choose another folder "
            "(hydra.run.dir=…) or the same words as then:\n" + "\n".join(lines)
        )


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str] = PASSING
) -> dict[str, tuple[Any, Any]]:
    """Where two configurations differ, ``but`` for these keys and what is below them: key → its
    value in each."""
    first, second = _flat(one), _flat(other)
    names = [name for name in first | second if name.partition(".")[0] not in but]
    return {n: (first.get(n), second.get(n)) for n in names if first.get(n) != second.get(n)}


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, Mapping):
        return {prefix: config}
    return {
        name: value
        for key, inner in config.items()
        for name, value in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
