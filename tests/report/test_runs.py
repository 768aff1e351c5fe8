"""Which runs are seeds of one configuration."""

import pytest

from psec_jax.report.results import Measurement
from psec_jax.report.runs import Run, differences, pooled, without

CONFIG = {"rank": 8, "data": {"source": "a", "target": "b"}}


def run(identity, *methods):
    rows = [
        Measurement.of("continual", "S→W", method, 0, "return", 1, [1.0, 3.0])
        for method in methods
    ]
    return Run(identity, identity, rows)


def test_a_configuration_does_not_differ_from_itself_and_a_difference_has_its_whole_key():
    assert differences(CONFIG, CONFIG) == {}
    other = {"rank": 8, "data": {"source": "a"}, "scale": 2}
    expected = {"data.target": ("b", None), "scale": (None, 2)}
    assert differences(CONFIG, other) == expected
    assert differences(other, CONFIG) == {key: pair[::-1] for key, pair in expected.items()}
    assert differences(without(CONFIG, ["data"]), without(other, ["data", "scale"])) == {}


def test_a_cell_has_one_configuration_while_cells_may_have_several():
    psec, other = run(CONFIG, "psec"), {**CONFIG, "rank": 4}
    scratch = run(other, "scratch")
    assert pooled([psec, psec, scratch]) == [*psec.rows, *psec.rows, *scratch.rows]
    with pytest.raises(ValueError, match=r"runs of psec on S→W .*\n  rank: 8 and 4"):
        pooled([psec, run(other, "psec")])
