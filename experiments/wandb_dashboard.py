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
# Section → its panels: a title, a kind, and its source. The kinds: lines (metrics, as a regular
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
    "Figures": [("Results", "media", [f"figures/{name}" for name in RESULTS])],
}


def workspace(entity: str, project: str) -> Any:
    """The dashboard as W&B's object, not saved yet."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def panel(title: str, kind: str, source: Any) -> Any:
        match kind:
            case "lines":
                # Without x, each metric has the axis that its run defined for it.
                return wr.LinePlot(title=title, x=None, metric_regex=source)
            case "bars":
                return wr.CustomChart(
                    query={"summaryTable": {"tableKey": source}},
                    chart_name="wandb/bar/v0",
                    chart_fields={"label": "label", "value": "mean"},
                    chart_strings={"title": title},
                )
            case "media":
                return wr.MediaBrowser(title=title, media_keys=source)
            case "table":
                return wr.WeavePanelSummaryTable(table_name=source)

    sections = [
        ws.Section(name=name, panels=[panel(*each) for each in panels], is_open=True)
        for name, panels in SECTIONS.items()
    ]
    return ws.Workspace(entity=entity, project=project, name="PSEC", sections=sections)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the address of the new view; ENTITY is the user's own where it is not given."""
    parser = argparse.ArgumentParser(
        prog="scripts/wandb_dashboard", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("project", metavar="[ENTITY/]PROJECT")
    entity, _, project = parser.parse_args(arguments).project.rpartition("/")
    try:
        view = workspace(entity, project)
        import wandb
        import wandb.errors
    except ImportError as error:
        sys.exit(f"error: the dashboard needs the extra: pip install 'psec-jax[wandb]' ({error})")
    try:
        view.entity = entity or wandb.Api().default_entity
        print(view.save().url)
    except wandb.errors.Error as error:
        sys.exit(f"error: W&B cannot be reached: {error}")


if __name__ == "__main__":
    main()
