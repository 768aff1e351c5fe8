"""The dashboard: its file, what it makes of it, and that its panels find what runs log."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config import ConfigError
from experiments.wandb_dashboard import CONFIG, kind_of, main, read, workspace

ROOT = Path(__file__).parents[2]


def panels() -> dict[str, tuple]:
    config = read(CONFIG)
    return {p["title"]: kind_of(p) for section in config["sections"].values() for p in section}


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
    lines = {title: what for title, (kind, what) in panels().items() if kind == "lines"}
    assert {title for title, what in lines.items() if re.search(what, metric)} == titles


def test_the_regular_expressions_are_such_that_every_engine_knows_them():
    """Browsers, Go and Python: no look-around, no back references."""
    for kind, what in panels().values():
        if kind == "lines":
            assert not re.search(r"\(\?|\\[1-9]", what)


@pytest.mark.parametrize(
    "panel, message",
    [
        ("{title: Cost, bar: means_cost}", "'bar' is no kind of panel; use one of lines, bars"),
        ("{bars: means_cost}", "needs a title and one of"),
        ("{title: Cost, bars: a, table: b}", "needs a title and one of"),
        ("{title: Loss, lines: '(loss'}", "no regular expression"),
        ("{title: Figures, media: figures/returns}", "media needs a list of keys"),
        ("{title: Cost, bars: 3}", "bars needs text"),
        ("Cost", "needs a title and one of"),
    ],
)
def test_a_bad_panel_is_named_with_its_section_and_number(tmp_path, panel, message):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"name: Mine\nsections:\n  Costs:\n    - {{title: A, table: b}}\n    - {panel}\n"
    )
    with pytest.raises(ConfigError, match=re.escape(f"{path}, Costs, panel 2: ")) as error:
        read(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name: x",
        "sections: {}",
        "[1]",
        "name: [",
        "{name: x, sections: [1]}",
        "{name: x, sections: {Costs: }}",
        "{name: x, sections: {}, more: 1}",
    ],
)
def test_a_file_without_name_and_sections_is_refused(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "mine.yaml"))):
        read(tmp_path / "mine.yaml")


def test_the_command_ends_in_one_line_where_the_file_is_wrong(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: .*none.yaml cannot be read"):
        main(["me/p", "--dry-run", "--config", str(tmp_path / "none.yaml")])


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
    config = read(CONFIG)
    built = workspace(config, "me", "p")
    assert (built.entity, built.project, built.name) == ("me", "p", "PSEC")
    assert [section.name for section in built.sections] == list(config["sections"])
    counts = [len(section.panels) for section in built.sections]
    assert counts == [len(section) for section in config["sections"].values()]
    named = {"LinePlot": "lines", "CustomChart": "bars", "MediaBrowser": "media"}
    for section, planned in zip(built.sections, config["sections"].values(), strict=True):
        for panel, plan in zip(section.panels, planned, strict=True):
            assert named.get(type(panel).__name__, "table") == kind_of(plan)[0]
    built._to_model()


def test_a_dry_run_prints_the_panels_and_saves_nothing(capsys, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr("experiments.wandb_dashboard.save", lambda *_: pytest.fail("saved"))
    main(["me/p", "--dry-run"])
    printed = capsys.readouterr().out
    assert all(f"  {title}: {kind}" in printed for title, (kind, _) in panels().items())


def test_without_the_package_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(SystemExit, match=r"^error: .*psec-jax\[wandb\]"):
        main(["me/p", "--dry-run"])
