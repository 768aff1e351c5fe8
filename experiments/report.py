"""Tables and figures from the results of one or more runs.

    python -m experiments.report sample_efficiency outputs/reproduce/sample_efficiency

Finds every ``results.jsonl`` below the folder, with the ``config.json`` beside it, and writes a
figure and a table named after the study into the folder.
"""

import argparse
import json
import sys
from pathlib import Path

from experiments import continual, dynamics_shift, multi_objective
from experiments.status import Status
from experiments.sweeping import VOLATILE
from psec_jax.report import published, results
from psec_jax.report.runs import Run, without
from psec_jax.report.studies import Against, LearningCurves, ReturnsTable, SafetyTable, Study

# In what runs may differ and still be seeds of one cell: how they went, and what else they hold.
NOT_COMPARED = (*VOLATILE, "seeds", "side_by_side", "methods", "task", "other_limits")
CONTINUAL, DYNAMICS_SHIFT, MULTI_OBJECTIVE = (
    {name: method.label for name, method in setting.METHODS.items()}
    for setting in (continual, dynamics_shift, multi_objective)
)
CONTINUAL_TABLE = ReturnsTable(CONTINUAL, lambda columns: published.CONTINUAL)
STUDIES: dict[str, Study] = {
    "continual_table": CONTINUAL_TABLE,
    "context_ablation": CONTINUAL_TABLE,
    "sample_efficiency": Against(
        "data.target_trajectories",
        "target demonstrations",
        CONTINUAL,
        paper={CONTINUAL[name]: curve for name, curve in published.SAMPLE_EFFICIENCY.items()},
    ),
    "training_curves": LearningCurves(
        {"policies": "Scratch", "full": "Dense skill", "low_rank": "Low-rank skill"}
    ),
    "rank_ablation": Against("adapter.rank", "rank", CONTINUAL),
    "dynamics_shift_table": ReturnsTable(
        DYNAMICS_SHIFT,
        published.dynamics_shift,
        "As the paper reports, read off its bars, on D4RL's data:",
        "score",
        published.DYNAMICS_SHIFT_ROWS,
    ),
    "target_data": Against(
        "target.fraction", "% of the target's data", DYNAMICS_SHIFT, "score", times=100
    ),
    "multi_objective_table": SafetyTable(MULTI_OBJECTIVE),
}


def read_runs(folder: Path) -> list[Run]:
    """Every finished run below ``folder``; others are named."""
    paths = sorted(path.parent for path in folder.rglob("results.jsonl"))
    finished = [path for path in paths if _finished(path)]
    if unfinished := [path.name for path in paths if path not in finished]:
        print(f"left out, as not finished: {', '.join(unfinished)}")
    if not finished:
        raise ValueError(
            f"{folder} holds no results.jsonl of a finished run; give the folder of a run or a "
            "sweep"
        )
    configs = [json.loads((path / "config.json").read_text()) for path in finished]
    return [
        Run(config, without(config, NOT_COMPARED), results.read([path / "results.jsonl"]))
        for path, config in zip(finished, configs, strict=True)
    ]


def _finished(run: Path) -> bool:
    status = Status.read(run)
    return status is None or status.state == "finished"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path, help="folder of a run or of a sweep")
    chosen = parser.parse_args(arguments)
    try:
        written = STUDIES[chosen.study](read_runs(chosen.folder), chosen.folder / chosen.study)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for path in written:
        if path.suffix == ".md":
            print(path.read_text())
        print(path)


if __name__ == "__main__":
    main()
