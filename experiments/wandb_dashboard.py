"""The panels of a W&B project, the same for every project.

    python -m experiments.wandb_dashboard [ENTITY/]PROJECT

Saves a view with the sections below; each call makes a new one. It needs the network and a login.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

OTHERS = "scratch|bc|bc_safe|iql|fisor|joint|finetune"
COLUMNS = ("", "_S_to_W", "_S_to_R", "_S_W_to_R")
RESULTS = ("returns", "scores", "plane_10", "plane_20", "plane_40")
# Section → its panels: a title, a kind, and what it shows. The kinds: lines (metrics, as a regular
# expression), bars (a table of means), table (a table's key), media (keys of figures or videos).
SECTIONS: dict[str, list[tuple[str, str, Any]]] = {
    "Evaluation": [
        ("Return", "bars", "means_return"),
        ("Cost", "bars", "means_cost"),
        ("Normalized score", "bars", "means_score"),
        ("Return while learning", "lines", r"_seed_\d+/learning_return$"),
        ("Every measurement", "table", "results"),
    ],
    "Training": [
        ("π₀", "lines", r"^pretrain_seed_\d+/loss$"),
        ("Skills", "lines", r"^(low_rank_|full_)?skills?_.*seed_\d+/loss$"),
        ("Critics", "lines", r"_seed_\d+/\w+/(value|q)_loss$"),
        ("Composition", "lines", r"^compose_.*_seed_\d+/loss$"),
        ("Policies without skills", "lines", rf"^({OTHERS})_.*seed_\d+/loss$"),
    ],
    "Weights": [
        ("α over an episode", "lines", r"^weights.*/weight_\w+$"),
        ("Figures of α", "media", [f"figures/weights{column}" for column in COLUMNS]),
        ("An episode", "media", ["videos/weights", "figures/weights_strip"]),
    ],
    "Figures": [
        ("Results", "media", [f"figures/{name}" for name in RESULTS]),
    ],
}


def workspace(entity: str, project: str) -> Any:
    """What W&B calls a dashboard, not saved yet; raises ``ImportError`` naming the extra."""
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ImportError(
            f"the dashboard needs the extra: pip install 'psec-jax[wandb]' ({error})"
        ) from error
    sections = [
        ws.Section(name=name, panels=[_panel(*panel) for panel in panels], is_open=True)
        for name, panels in SECTIONS.items()
    ]
    return ws.Workspace(entity=entity, project=project, name="PSEC", sections=sections)


def _panel(title: str, kind: str, shown: Any) -> Any:
    import wandb_workspaces.reports.v2 as wr

    match kind:
        case "lines":
            # Without x, each metric has the axis that its run defined for it.
            return wr.LinePlot(title=title, x=None, metric_regex=shown)
        case "bars":
            return wr.CustomChart(
                query={"summaryTable": {"tableKey": shown}},
                chart_name="wandb/bar/v0",
                chart_fields={"label": "label", "value": "mean"},
                chart_strings={"title": title},
            )
        case "media":
            return wr.MediaBrowser(title=title, media_keys=shown)
        case "table":
            return wr.WeavePanelSummaryTable(table_name=shown)


def save(entity: str, project: str) -> str:
    """The address of the new view; ``entity`` is the user's own where it is empty."""
    made = workspace(entity, project)
    import wandb

    try:
        made.entity = entity or wandb.Api().default_entity
        return made.save().url
    # pyright does not see that wandb imports it.
    except wandb.errors.Error as error:  # pyright: ignore[reportAttributeAccessIssue]
        raise ConnectionError(f"W&B cannot be reached: {error}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/wandb_dashboard", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("project", metavar="[ENTITY/]PROJECT")
    entity, _, project = parser.parse_args(arguments).project.rpartition("/")
    try:
        print(save(entity, project))
    except (ConnectionError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
