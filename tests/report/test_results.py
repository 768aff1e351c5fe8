import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import storage
from psec_jax.errors import BrokenFile, NotSaved
from psec_jax.evaluation.statistics import summarize
from psec_jax.report.results import Measurement, append, read, summaries

ROW = Measurement("continual", "S→W", "psec", 0, "return", 5.0, 100, (4.0, 6.0))

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(codec="utf-8"), max_size=10)
MEASUREMENTS = st.builds(
    Measurement,
    setting=WORDS,
    task=WORDS,
    method=WORDS,
    seed=st.integers(0, 2**31),
    metric=WORDS,
    value=NUMBERS,
    step=st.integers(0, 10**9),
    values=st.lists(NUMBERS, max_size=4).map(tuple),
)


def row(**changes):
    return dataclasses.replace(ROW, **changes)


@given(st.lists(MEASUREMENTS, max_size=4))
def test_rows_come_back_as_they_were_in_order(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    path.touch()
    for measurement in rows:
        append(path, measurement)
    assert read([path]) == rows


def test_a_full_disk_is_said_and_loses_no_row(small_disk):
    disk, leave = small_disk(1)
    path = disk / "results.jsonl"
    append(path, ROW)
    leave(0)
    with pytest.raises(NotSaved, match=r"cannot save .*results.jsonl \(No space left on device\)"):
        for step in range(1, 1000):
            append(path, row(step=step))
    (disk / "filler").unlink()
    storage.repair_lines(path)
    append(path, row(step=step))
    assert read([path]) == [ROW, *(row(step=number) for number in range(1, step + 1))]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\n", "\r"])
def test_a_row_is_one_line_whatever_its_words_hold(tmp_path, separator):
    path = tmp_path / "results.jsonl"
    odd = row(task=f"a{separator}b")
    append(path, odd)
    append(path, ROW)
    assert read([path]) == [odd, ROW]


def test_files_are_read_one_after_the_other(tmp_path):
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for seed, path in enumerate(paths):
        append(path, row(seed=seed))
    assert [r.seed for r in read(paths)] == [0, 1]
    assert [r.seed for r in read(paths[::-1])] == [1, 0]


WHOLE = json.dumps(dataclasses.asdict(ROW))


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        WHOLE[: len(WHOLE) // 2],
        "[]",
        "5",
        "null",
        "{}",
        WHOLE.replace('"seed": 0, ', ""),
        WHOLE.replace('"seed"', '"speed"'),
        WHOLE.replace("[4.0, 6.0]", "7"),
        WHOLE.replace("[4.0, 6.0]", '["four"]'),
        WHOLE.replace('"value": 5.0', '"value": "five"'),
        WHOLE.replace('"step": 100', '"step": "last"'),
    ],
)
def test_a_line_that_is_no_measurement_is_refused_by_its_number(tmp_path, line):
    path = tmp_path / "results.jsonl"
    append(path, ROW)
    append(path, ROW)
    with path.open("a") as file:
        file.write(line + "\n")
    append(path, ROW)
    with pytest.raises(BrokenFile, match=r"results.jsonl, line 3 is no measurement"):
        read([path])


@given(st.permutations(range(6)))
def test_the_latest_step_of_each_seed_counts_whatever_the_order(order):
    rows = [
        row(seed=seed, step=step, values=(float(seed), float(step)))
        for seed in (0, 1)
        for step in (100, 300, 200)
    ]
    found = summaries([rows[i] for i in order])
    expected = summarize([np.array([0.0, 300.0]), np.array([1.0, 300.0])])
    assert found[("psec", "S→W")].mean == expected.mean
    assert found[("psec", "S→W")].seeds == 2


def test_of_two_rows_of_one_step_the_later_counts():
    assert summaries([row(values=(1.0,)), row(values=(2.0,))])[("psec", "S→W")].mean == 2


def test_each_method_task_and_metric_has_its_own_summary():
    rows = [
        row(method=method, task=task, metric=metric, values=(), value=float(value))
        for value, (method, task, metric) in enumerate(
            (m, t, k) for m in ("psec", "asec") for t in ("S→W", "S→R") for k in ("return", "cost")
        )
    ]
    means = {cell: summary.mean for cell, summary in summaries(rows, "cost").items()}
    assert means == {
        ("psec", "S→W"): 1,
        ("psec", "S→R"): 3,
        ("asec", "S→W"): 5,
        ("asec", "S→R"): 7,
    }
    assert summaries(rows, "speed") == {}
