"""The panels of a W&B project, the same for every project, from a file.

    python -m experiments.wandb_dashboard [ENTITY/]PROJECT

Saves a view with the sections of conf/dashboard.yaml; each call makes a new one. It needs the
network and a login, with --dry-run neither.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.config import ConfigError

CONFIG = Path(__file__).parents[1] / "conf" / "dashboard.yaml"
# Each kind of panel, and what its word has to be followed by.
KINDS = {"lines": str, "bars": str, "table": str, "media": list}


def read(path: Path) -> dict[str, Any]:
    """The dashboard's ``name`` and ``sections``; raises ``ConfigError`` naming the bad entry."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    match config:
        case {"name": str(), "sections": dict(sections)} if len(config) == 2:
            pass
        case _:
            raise ConfigError(f"{path} needs a name and sections, and nothing else")
    for section, panels in sections.items():
        if not isinstance(panels, list):
            raise ConfigError(f"{path}, {section}: needs a list of panels, not {panels!r}")
        for number, panel in enumerate(panels, 1):
            try:
                check(panel)
            except ConfigError as error:
                raise ConfigError(f"{path}, {section}, panel {number}: {error}") from None
    return config


def check(panel: Any) -> None:
    """Raise ``ConfigError`` unless this is a title and one known kind of panel."""
    if not isinstance(panel, Mapping) or "title" not in panel or len(panel) != 2:
        raise ConfigError(f"{panel} needs a title and one of {', '.join(KINDS)}")
    kind, what = kind_of(panel)
    if kind not in KINDS:
        raise ConfigError(f"{kind!r} is no kind of panel; use one of {', '.join(KINDS)}")
    if not isinstance(what, KINDS[kind]):
        expected = "a list of keys" if kind == "media" else "text"
        raise ConfigError(f"{kind} needs {expected}, not {what!r}")
    if kind == "lines":
        try:
            re.compile(what)
        except re.error as error:
            raise ConfigError(f"lines {what!r} is no regular expression: {error}") from None


def kind_of(panel: Mapping[str, Any]) -> tuple[str, Any]:
    """A panel's kind and what it shows."""
    ((kind, what),) = ((key, value) for key, value in panel.items() if key != "title")
    return kind, what


def workspace(config: Mapping[str, Any], entity: str, project: str) -> Any:
    """What W&B calls a dashboard, not saved yet."""
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ImportError(
            f"the dashboard needs the extra: pip install 'psec-jax[wandb]' ({error})"
        ) from error
    sections = [
        ws.Section(name=name, panels=[_panel(panel) for panel in panels], is_open=True)
        for name, panels in config["sections"].items()
    ]
    return ws.Workspace(entity=entity, project=project, name=config["name"], sections=sections)


def _panel(panel: Mapping[str, Any]) -> Any:
    import wandb_workspaces.reports.v2 as wr

    title, (kind, what) = panel["title"], kind_of(panel)
    match kind:
        case "lines":
            # Without x, each metric has the axis that its run defined for it.
            return wr.LinePlot(title=title, x=None, metric_regex=what)
        case "bars":
            return wr.CustomChart(
                query={"summaryTable": {"tableKey": what}},
                chart_name="wandb/bar/v0",
                chart_fields={"label": "label", "value": "mean"},
                chart_strings={"title": title},
            )
        case "media":
            return wr.MediaBrowser(title=title, media_keys=what)
        case "table":
            return wr.WeavePanelSummaryTable(table_name=what)


def save(config: Mapping[str, Any], entity: str, project: str) -> str:
    """The address of the new view; ``entity`` is the user's own where it is empty."""
    import wandb

    try:
        entity = entity or wandb.Api().default_entity
        return workspace(config, entity, project).save().url
    except wandb.errors.Error as error:
        raise ConfigError(f"W&B cannot be reached: {error}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/wandb_dashboard", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("project", metavar="[ENTITY/]PROJECT")
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the panels, save nothing")
    chosen = parser.parse_args(arguments)
    entity, _, project = chosen.project.rpartition("/")
    try:
        config = read(chosen.config)
        if not chosen.dry_run:
            print(save(config, entity, project))
            return
        workspace(config, entity, project)
    except (ConfigError, ImportError) as error:
        sys.exit(f"error: {error}")
    for section, panels in config["sections"].items():
        print(section)
        for panel in panels:
            kind, what = kind_of(panel)
            print(f"  {panel['title']}: {kind} {what if kind != 'media' else ', '.join(what)}")


if __name__ == "__main__":
    main()
