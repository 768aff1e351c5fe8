"""The dashboard: what becomes of its panels, and that they find what runs log."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.wandb_dashboard import SECTIONS, main, workspace

ROOT = Path(__file__).parents[2]


PANELS = {title: (kind, source) for panels in SECTIONS.values() for title, kind, source in panels}


@pytest.mark.parametrize(
    "metric, titles",
    {
        "pretrain_seed_0/loss": {"π₀"},
        "low_rank_skill_walk_seed_0/loss": {"Skills"},
        "full_skill_walk_seed_12/loss": {"Skills"},
        "skill_target_seed_0/loss": {"Skills"},
        "skills_seed_0/loss": {"Skills"},
        "skills_seed_0/feasibility/q_loss": {"Critics"},
        "scratch_walk_seed_0/loss": {"Policies without skills"},
        "bc_safe_seed_0/loss": {"Policies without skills"},
        "fisor_seed_0/loss": {"Policies without skills"},
        "compose_psec_S_W_seed_1/loss": {"Composition"},
        "low_rank_walk_seed_0/learning_return": {"Return while learning"},
        "weights_S_to_W/weight_walk": {"α over an episode"},
        "weights/reward": set(),
        "pretrain_seed_0/step": set(),
        "psec_S_W_seed_0/return": set(),
    }.items(),
)
def test_a_metric_is_in_the_panel_of_its_stage(metric, titles):
    lines = {title: source for title, (kind, source) in PANELS.items() if kind == "lines"}
    assert {title for title, source in lines.items() if re.search(source, metric)} == titles


def test_the_regular_expressions_are_such_that_every_engine_knows_them():
    """Browsers, Go and Python: no look-around, no back references."""
    for kind, source in PANELS.values():
        if kind == "lines":
            assert not re.search(r"\(\?|\\[1-9]", source)


def test_the_script_finds_the_project_from_anywhere(tmp_path):
    process = subprocess.run(
        [str(ROOT / "scripts" / "wandb_dashboard"), "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert process.stdout.startswith("usage: scripts/wandb_dashboard"), process.stderr


def test_every_panel_of_the_file_becomes_one_of_wandbs():
    pytest.importorskip("wandb_workspaces")
    built = workspace("me", "p")
    assert (built.entity, built.project, built.name) == ("me", "p", "PSEC")
    assert [section.name for section in built.sections] == list(SECTIONS)
    kinds = {"LinePlot": "lines", "CustomChart": "bars", "MediaBrowser": "media"}
    for section, planned in zip(built.sections, SECTIONS.values(), strict=True):
        for panel, (_, kind, _) in zip(section.panels, planned, strict=True):
            assert kinds.get(type(panel).__name__, "table") == kind
    built._to_model()


def test_without_the_package_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(SystemExit, match=r"^error: .*psec-jax\[wandb\]"):
        main(["me/p"])
