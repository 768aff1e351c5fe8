"""Studies over the results of many runs."""

import json

import pytest

from experiments.report import main
from psec_jax.report.results import Measurement, append


def write_run(folder, config, rows):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for method, seed, metric, step, values in rows:
        mean = sum(values) / len(values)
        row = Measurement("continual", "S→W", method, seed, metric, mean, step, tuple(values))
        append(folder / "results.jsonl", row)


def test_rank_ablation_puts_each_ranks_mean_over_seeds_in_its_column(tmp_path, capsys):
    for rank in (4, 8):
        rows = [("psec", seed, "return", 10, [rank + seed, rank + seed]) for seed in (0, 2)]
        write_run(tmp_path / str(rank), {"adapter": {"rank": rank}}, rows)
    main(["rank_ablation", str(tmp_path)])
    table = (tmp_path / "rank_ablation.md").read_text()
    assert table.splitlines()[0].split("|")[2:4] == [" 4 ", " 8 "]
    assert "| PSEC | 5 [4, 6] | 9 [8, 10] |" in table
    assert (tmp_path / "rank_ablation.png").stat().st_size > 5000
    assert table in capsys.readouterr().out


def test_training_curves_keep_every_step(tmp_path):
    rows = [("low_rank", 0, "learning_return", step, [step / 10]) for step in (100, 200)]
    write_run(tmp_path / "run", {}, rows)
    main(["training_curves", str(tmp_path)])
    table = (tmp_path / "training_curves_S→W.md").read_text()
    assert "| Low-rank skill | 10 [10, 10] | 20 [20, 20] |" in table


def test_runs_without_curves_are_refused_with_the_mend(tmp_path):
    write_run(tmp_path / "run", {}, [("psec", 0, "return", 1, [1.0])])
    with pytest.raises(SystemExit, match=r"evaluation\.curve_every"):
        main(["training_curves", str(tmp_path)])


@pytest.mark.parametrize(
    ("study", "missing"),
    [
        ("target_data", "target.fraction"),
        ("multi_objective_table", "cost_limit"),
        ("dynamics_shift_table", "score"),
    ],
)
def test_runs_of_another_setting_are_refused_by_what_they_lack(tmp_path, study, missing):
    write_run(tmp_path / "run", {"target": "walk"}, [("psec", 0, "return", 1, [1.0])])
    with pytest.raises(SystemExit, match=f"no '{missing}' .*they are of another study"):
        main([study, str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"no results\.jsonl"):
        main(["continual_table", str(tmp_path)])


def write_rows(folder, config, rows):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for setting, task, method, metric, values in rows:
        mean = sum(values) / len(values)
        row = Measurement(setting, task, method, 0, metric, mean, 1, tuple(values))
        append(folder / "results.jsonl", row)


def test_scores_under_dynamics_shift_stand_beside_the_papers(tmp_path):
    for shift, score in (("gravity", 30.0), ("thigh", 40.0)):
        task = f"walker2d medium, {shift}"
        rows = [("dynamics_shift", task, "psec", m, [score]) for m in ("score", "return")]
        write_rows(tmp_path / shift, {"target": {"fraction": 0.05}}, rows)
    main(["dynamics_shift_table", str(tmp_path)])
    table = (tmp_path / "dynamics_shift_table.md").read_text()
    assert "| PSEC | **30.0** [30.0, 30.0] | **40.0** [40.0, 40.0] |" in table
    assert "| PSEC | 57 | 64 |" in table


def test_the_share_of_the_targets_data_is_the_column(tmp_path):
    for fraction in (0.01, 0.5):
        rows = [("dynamics_shift", "column", "scratch", m, [100 * fraction]) for m in ("score",)]
        write_rows(tmp_path / str(fraction), {"target": {"fraction": fraction}}, rows)
    main(["target_data", str(tmp_path)])
    table = (tmp_path / "target_data.md").read_text()
    assert table.splitlines()[0].split("|")[2:4] == [" 1 ", " 50 "]
    assert "| Scratch | 1.0 [1.0, 1.0] | 50.0 [50.0, 50.0] |" in table


def test_rewards_and_costs_of_several_tasks_and_limits_are_normalized(tmp_path):
    """CarRun's return of 204.28726 is DSRL's least, 574.6533 its greatest."""
    for task in ("bullet/carrun", "bullet/ballrun"):
        rows = [
            ("multi_objective", task, "psec", "return", [574.6533203125]),
            ("multi_objective", task, "psec", "cost", [20.0]),
        ]
        config = {"cost_limit": 10, "other_limits": [40]}
        write_rows(tmp_path / task.partition("/")[2], config, rows)
    main(["multi_objective_table", str(tmp_path)])
    table = (tmp_path / "multi_objective_table.md").read_text()
    strict, lenient = table.split("Limit 40:")
    assert "| bullet/carrun | 1.00 / 2.00 |" in strict
    assert "| bullet/carrun | **1.00 / 0.50*** |" in lenient
    assert "BulletGym mean (2 tasks)" in strict and "| 0.83 / 0.00 |" in lenient


def test_runs_of_one_cell_in_different_configurations_are_refused_and_seeds_are_pooled(tmp_path):
    def write(name, seed, **settings):
        config = {"seeds": [seed], "logger": {"kind": name}, "adapter": {"rank": 8}, **settings}
        write_run(tmp_path / name, config, [("psec", seed, "return", 1, [float(seed)])])

    write("a", 0)
    write("b", 2, methods=["psec", "scratch"])
    main(["continual_table", str(tmp_path)])
    assert "| PSEC | **1** [0, 2] |" in (tmp_path / "continual_table.md").read_text()
    write("c", 4, adapter={"rank": 16})
    with pytest.raises(SystemExit) as error:
        main(["continual_table", str(tmp_path)])
    assert str(error.value).startswith("error: runs of psec on S→W are no seeds of one")
    assert str(error.value).splitlines()[1:] == ["  adapter.rank: 8 and 16"]
    main(["rank_ablation", str(tmp_path)])
    assert "| PSEC | 1 [0, 2] | 4 [4, 4] |" in (tmp_path / "rank_ablation.md").read_text()
    write("d", 6, adapter={"rank": 16}, scale="demo")
    with pytest.raises(SystemExit, match="scale: None and demo"):
        main(["rank_ablation", str(tmp_path)])


def test_limits_may_differ_between_tasks_but_not_between_the_seeds_of_one(tmp_path):
    def write(name, limit):
        rows = [
            ("multi_objective", "bullet/" + name, "psec", m, [9.0]) for m in ("return", "cost")
        ]
        config = {"cost_limit": limit, "other_limits": []}
        write_rows(tmp_path / f"{name}{limit}", config, rows)

    write("carrun", 10)
    write("ballrun", 20)
    main(["multi_objective_table", str(tmp_path)])
    write("carrun", 20)
    with pytest.raises(SystemExit, match="cost_limit: 10 and 20"):
        main(["multi_objective_table", str(tmp_path)])


def test_methods_may_differ_in_configuration_though_their_data_are_the_same(tmp_path):
    for rank, method in ((4, "psec"), (8, "psec_fixed")):
        rows = [("demonstrations", 0, "demonstrations", 0, [3.0]), (method, 0, "return", 1, [2.0])]
        write_run(tmp_path / method, {"adapter": {"rank": rank}}, rows)
    main(["continual_table", str(tmp_path)])
    assert (tmp_path / "continual_table.md").read_text().count("2** [2, 2]") == 2
