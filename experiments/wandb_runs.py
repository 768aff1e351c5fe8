"""A run's W&B run: how it is begun, and what it is given at the end."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from experiments.config import ConfigError, Logger
from experiments.sweeping import VOLATILE
from psec_jax.report import results
from psec_jax.report.runs import without
from psec_jax.training.metrics import Wandb

# WANDB_MODE → the mode; the last two are W&B's older names.
MODES = {mode: mode for mode in ("online", "offline", "disabled", "shared")}
MODES |= {"dryrun": "offline", "run": "online"}
SUMMARY = ("mean", "low", "high", "episodes", "seeds")


def wandb_run(
    out: Path, config: Mapping[str, Any], logger: Logger
) -> AbstractContextManager[Wandb | None]:
    """The W&B run of the run in ``out``; None where the package is missing, which a line says.

    Where ``logger`` is silent W&B's own variables hold, most of which W&B reads itself. Raises
    ``ConfigError`` for a WANDB_MODE that W&B does not know.
    """
    mode = MODES.get(os.environ.get("WANDB_MODE") or "online")
    if mode is None:
        raise ConfigError(
            f"WANDB_MODE {os.environ['WANDB_MODE']!r} is unknown; use one of {', '.join(MODES)}"
        )
    files = None
    if folder := os.environ.get("WANDB_DIR"):
        files = Path(folder).expanduser().absolute()
        # W&B would take a temporary folder for one that is not there.
        files.mkdir(parents=True, exist_ok=True)
    try:
        return Wandb(
            out,
            config,
            mode=logger.mode or mode,
            project=logger.project or os.environ.get("WANDB_PROJECT") or "psec-jax",
            group=logger.group,
            identity=json.dumps(without(config, VOLATILE), sort_keys=True),
            entity=logger.entity,
            name=logger.name or os.environ.get("WANDB_NAME"),
            tags=logger.tags,
            files=files,
        )
    except ImportError as error:
        print(f"{error}; this run is kept in local files only", flush=True)
        return nullcontext()


def tabulate(rows: Sequence[results.Measurement], wandb: Wandb) -> None:
    """Every measurement so far in one table, and of each metric the means over seeds in another
    and in the run's summary."""
    names = ("setting", "task", "method", "seed", "metric", "step", "value", "values")
    wandb.table("results", names, [[getattr(row, name) for name in names] for row in rows])
    for metric in dict.fromkeys(row.metric for row in rows):
        means = []
        for (method, task), summary in results.summaries(rows, metric).items():
            name = f"{method} {task}"
            means.append([name, *(getattr(summary, column) for column in SUMMARY)])
            wandb.summary(f"{metric}/{name}", summary.mean)
        wandb.table(f"means_{metric}", ("label", *SUMMARY), means)
