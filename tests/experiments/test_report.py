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


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"no results\.jsonl"):
        main(["continual_table", str(tmp_path)])
