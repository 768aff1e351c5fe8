"""Where a run's numbers, tables and figures go: its output folder, and W&B where asked."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import ConfigError, Logger
from experiments.status import alone_in
from experiments.sweeping import VOLATILE
from experiments.wandb_runs import tabulate, wandb_run
from psec_jax import SkillLibrary, TransitionDataset, storage
from psec_jax.evaluation import Evaluation, Trace
from psec_jax.evaluation.statistics import Summary
from psec_jax.report import figures, results, videos
from psec_jax.report.runs import differences, without
from psec_jax.training import Checkpoints
from psec_jax.training.metrics import JsonLines, Wandb, Writer, Writers
from psec_jax.training.processes import leads


class Recorder:
    """Writes into one output folder: ``results.jsonl``, ``metrics.jsonl``, tables, figures, and
    until everything is measured the states of learning in ``checkpoints``.

    Of several processes each knows what was measured, and the first alone writes.
    """

    def __init__(self, out: Path, wandb: Wandb | None = None, **checkpoints: int):
        self.out = out
        self.checkpoints = Checkpoints(out / "checkpoints", **checkpoints)
        self._leads, self._wandb = leads(), wandb
        self._results = out / "results.jsonl"
        self._rows = results.read([self._results]) if self._results.exists() else []
        self._local: JsonLines | None = None
        if self._leads:
            storage.repair_lines(self._results)
            self._local = JsonLines(out / "metrics.jsonl")
        writers = (self._local, self._wandb)
        self.writer: Writer = Writers(tuple(writer for writer in writers if writer is not None))

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
        values = evaluation.costs if metric == "cost" else evaluation.returns
        assert values is not None, "costs are recorded where there are some"
        row = results.Measurement.of(setting, task, method, seed, metric, step, values)
        if not self._add(row):
            return
        if metric != "cost":
            print(f"{task} {method} (seed {seed}, step {step}): {metric} {evaluation}", flush=True)
        if self._wandb is not None:
            spread = {metric: row.value, f"{metric}_std": float(np.std(values))}
            self._wandb.write(f"{method} {task} (seed {seed})", step, spread)

    def demonstrations(
        self, data: TransitionDataset, *, setting: str, task: str, seed: int
    ) -> None:
        """The return of the demonstrations themselves, where they have rewards."""
        if data.rewards is not None:
            name = "demonstrations"
            self._add(results.Measurement.of(setting, task, name, seed, name, 0, data.returns))

    def _add(self, row: results.Measurement) -> bool:
        """Whether this was not measured before; then it is written."""
        is_new = not self.has(row.method, row.task, row.seed, row.metric, row.step)
        if is_new:
            self._rows.append(row)
            if self._leads:
                results.append(self._results, row)
        return is_new

    def has(self, method: str, task: str, seed: int, metric: str, step: int | None = None) -> bool:
        """Whether this was measured before (at ``step``, or any), so that a run started again goes
        on after it."""
        cell = (method, task, seed, metric)
        return any(
            (row.method, row.task, row.seed, row.metric) == cell and step in (None, row.step)
            for row in self._rows
        )

    def measurements(self) -> list[results.Measurement]:
        """Everything that was measured so far."""
        return list(self._rows)

    def summaries(self, metric: str) -> dict[tuple[str, str], Summary]:
        return results.summaries(self._rows, metric)

    def trace(self, name: str, trace: Trace, skills: Sequence[str], title: str) -> None:
        """Weights over an episode, as ``<name>.csv`` and ``<name>.png``, and its pictures as
        ``<name>_strip.png`` and ``<name>.gif``."""
        if not self._leads:
            return
        names = [*(f"weight_{skill}" for skill in skills), "reward", "cost"]
        columns = [trace.weights, trace.rewards, trace.costs]
        if trace.home_rewards is not None:
            names, columns = [*names, "home_reward"], [*columns, trace.home_rewards]
        table = np.column_stack(columns)
        steps = np.arange(len(table))
        with storage.new_file(self.out / f"{name}.csv") as path:
            np.savetxt(
                path,
                np.column_stack([steps, table]),
                delimiter=",",
                header=",".join(["step", *names]),
                comments="",
                fmt="%.6g",
            )
        self.figure(f"{name}.png", figures.weights_over_episode, trace, skills, title)
        if trace.pictures:
            self.figure(f"{name}_strip.png", figures.picture_strip, trace, skills, title=title)
            film = self.out / f"{name}.gif"
            videos.animation(film, [picture for _, picture in trace.pictures])
            if self._wandb is not None:
                self._wandb.video(name, film)
        if self._wandb is not None:
            for step, values in zip(steps.tolist(), table.tolist(), strict=True):
                self._wandb.write(name, step, dict(zip(names, values, strict=True)))

    def text(self, name: str, content: str) -> None:
        """``content`` as the file ``name``."""
        if self._leads:
            storage.write_text(self.out / name, content)
        if self._wandb is not None:
            self._wandb.summary(name, content)

    def figure(
        self, name: str, draw: Callable[..., None], *arguments: Any, **options: Any
    ) -> None:
        """What ``draw(path, …)`` of ``psec_jax.report.figures`` draws, as the file ``name``."""
        path = self.out / name
        if self._leads:
            draw(path, *arguments, **options)
        if self._wandb is not None:
            self._wandb.image(path.stem, path)

    def library(self, path: Path) -> None:
        """A skill library as a W&B artifact, with its base and each skill's provenance."""
        if self._wandb is None:
            return
        library = SkillLibrary.open(path)
        skills = {name: dict(library.get(name).provenance) for name in library.names()}
        metadata = {"base": library.fingerprint, "skills": skills}
        self._wandb.folder(f"{self.out.name}-{path.parent.name}", "skill-library", path, metadata)

    def close(self) -> None:
        if self._local is not None:
            self._local.close()
        if self._wandb is not None and self._rows:
            tabulate(self._rows, self._wandb)


@contextmanager
def start_recording(
    out: Path,
    config: Mapping[str, Any],
    logger: Logger,
    resume: bool = True,
    **checkpoints: int,
) -> Iterator[Recorder]:
    """A recorder for ``out``, with the resolved configuration written there first.

    ``checkpoints`` are the numbers of ``Checkpoints``. Raises ``ConfigError`` if another process
    writes there, or if ``out`` holds a run of another configuration, with what differs, or any run
    without ``resume``.
    """
    if not leads():
        yield Recorder(out, None, **checkpoints)
        return
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        _refuse_other_configuration(out, config, resume)
        storage.write_text(
            out / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        )
        run = wandb_run(out, config, logger) if logger.kind == "wandb" else nullcontext()
        with run as wandb, closing(Recorder(out, wandb, **checkpoints)) as recorder:
            yield recorder


def _refuse_other_configuration(out: Path, config: Mapping[str, Any], resume: bool) -> None:
    path = out / "config.json"
    if not path.exists():
        return
    if not resume:
        raise ConfigError(
            f"{out} holds a run already; resume it (resume=true), remove it, or choose another"
            " folder (hydra.run.dir=…)"
        )
    previous = json.loads(path.read_text())
    if different := differences(without(previous, VOLATILE), without(config, VOLATILE)):
        lines = [f"  {key}: {before} there, {now} now" for key, (before, now) in different.items()]
        raise ConfigError(
            f"{out} holds a run of another configuration; choose another folder "
            "(hydra.run.dir=…) or the same overrides as then:\n" + "\n".join(lines)
        )
