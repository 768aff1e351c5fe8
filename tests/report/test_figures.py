import numpy as np
import pytest
from matplotlib.figure import Figure

from psec_jax.evaluation import Trace
from psec_jax.evaluation.statistics import Summary
from psec_jax.report import figures

ROWS = [("psec", "PSEC"), ("asec", "ASEC"), ("absent", "not run")]
COLUMNS = ["S→W", "S→R"]


def summary(mean):
    return Summary(mean, 1.0, mean - 5.0, mean + 8.0, 20, 2)


SUMMARIES = {
    ("psec", "S→W"): summary(600),
    ("psec", "S→R"): summary(70),
    ("asec", "S→W"): summary(40),
}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    saved, save = [], Figure.savefig

    def remember(figure, *arguments, **options):
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def assert_picture(path):
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5000


def test_bars_are_as_high_as_the_means_and_whiskers_as_the_intervals(tmp_path, drawn):
    figures.bars(
        tmp_path / "bars.png",
        SUMMARIES,
        ROWS,
        COLUMNS,
        published={"psec": {"S→W": 688.0}},
        references={"S→R": 300.0},
        title="returns",
    )
    assert_picture(tmp_path / "bars.png")
    (axes,) = drawn[0].axes
    heights = [bar.get_height() for group in axes.containers[1::2] for bar in group]
    np.testing.assert_array_equal(heights, [600, 70, 40, np.nan])
    whiskers = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([s[:, 1] for s in whiskers], [[595, 608], [65, 78]])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(labels) == sorted(["PSEC", "ASEC", "paper", "demonstrations"])
    (diamond,) = (line for line in axes.lines if line.get_marker() == "D")
    assert diamond.get_ydata() == [688.0]
    assert axes.get_title() == "returns"


def test_without_results_the_axes_are_empty_and_labelled(tmp_path, drawn):
    figures.bars(tmp_path / "bars.png", {}, ROWS, COLUMNS, title="returns")
    figures.lines(tmp_path / "lines.png", {}, "rank", logarithmic=True, title="returns")
    bars, lines = (figure.axes[0] for figure in drawn)
    assert [text.get_text() for text in bars.get_xticklabels()] == COLUMNS
    assert lines.get_xlabel() == "rank"
    for axes in (bars, lines):
        assert axes.get_ylabel() == "return"
        assert axes.get_title() == "returns"
        assert not axes.containers and not axes.lines and not axes.get_legend()


def draw_bars(path, mean, **more):
    figures.bars(path, {("psec", "S→W"): summary(mean)}, ROWS, COLUMNS, **more)


def draw_lines(path, mean, **more):
    figures.lines(path, {"PSEC": {4: summary(mean), 8: summary(mean + 1)}}, "rank", **more)


@pytest.mark.parametrize(
    ("draw", "lowest", "more"),
    [
        (draw_bars, 5.0, {}),
        (draw_bars, -105.0, {}),
        (draw_bars, -2.0, {"references": {"S→R": -2.0}}),
        (draw_bars, -3.0, {"published": {"psec": {"S→W": -3.0}}}),
        (draw_lines, 5.0, {}),
        (draw_lines, -105.0, {}),
        (draw_lines, -2.0, {"published": {"PSEC": {4: -2.0}}}),
    ],
)
def test_returns_start_from_zero_unless_something_lies_below(tmp_path, drawn, draw, lowest, more):
    draw(tmp_path / "figure.png", 10.0 if more else lowest + 5.0, **more)
    bottom, _ = drawn[0].axes[0].get_ylim()
    if lowest > 0:
        assert bottom == 0
    else:
        assert bottom < lowest


@pytest.mark.parametrize("logarithmic", [False, True])
def test_lines_go_through_the_means_in_order(tmp_path, drawn, logarithmic):
    curve = {16: summary(60), 4: summary(40), 8: summary(50)}
    figures.lines(
        tmp_path / "lines.png",
        {"PSEC": curve},
        "rank",
        published={"PSEC": {8: 55.0, 4: 45.0}, "other": {1: 1.0}},
        logarithmic=logarithmic,
    )
    assert_picture(tmp_path / "lines.png")
    (axes,) = drawn[0].axes
    ours, paper = axes.lines
    np.testing.assert_array_equal(ours.get_xydata(), [[4, 40], [8, 50], [16, 60]])
    np.testing.assert_array_equal(paper.get_xydata(), [[4, 45], [8, 55]])
    assert axes.get_xscale() == ("log" if logarithmic else "linear")
    assert axes.get_xlabel() == "rank"


def test_weights_are_drawn_by_skill_above_the_rewards(tmp_path, drawn):
    generator = np.random.default_rng(0)
    weights, rewards = generator.uniform(size=(30, 2)), generator.uniform(size=30)
    costs = np.repeat([0.0, 1.0, 0.0, 2.0, 1.0], [5, 3, 10, 4, 8])
    trace = Trace(weights, rewards, costs)
    figures.weights_over_episode(tmp_path / "weights.png", trace, ["walk", "run"], title="α(s)")
    assert_picture(tmp_path / "weights.png")
    above, below = drawn[0].axes
    curves = {line.get_label(): line.get_ydata() for line in above.lines[:2]}
    np.testing.assert_array_equal(curves["walk"], weights[:, 0])
    np.testing.assert_array_equal(curves["run"], weights[:, 1])
    np.testing.assert_array_equal(below.lines[0].get_ydata(), rewards)
    np.testing.assert_array_equal(below.lines[1].get_ydata(), costs)
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in above.patches]
    assert spans == [(5, 8), (18, 30)]


def test_of_an_agent_that_goes_home_the_bases_reward_is_drawn_between(tmp_path, drawn):
    home = np.linspace(0, 1, 30)
    trace = Trace(np.ones((30, 1)), np.zeros(30), np.zeros(30), (), home, (0.1, 0.3))
    figures.weights_over_episode(tmp_path / "weights.png", trace, ["walk"])
    assert_picture(tmp_path / "weights.png")
    _, between, _ = drawn[0].axes
    np.testing.assert_array_equal(between.lines[0].get_ydata(), home)
    (band,) = between.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.1, 0.3))


def test_methods_lie_in_the_plane_of_reward_and_cost(tmp_path, drawn):
    found = {("psec", "task"): (summary(0.5), summary(2.0)), ("asec", "task"): (summary(1),) * 2}
    figures.plane(tmp_path / "plane.png", found, ROWS, "task")
    assert_picture(tmp_path / "plane.png")
    (axes,) = drawn[0].axes
    handles, labels = axes.get_legend_handles_labels()
    points = dict(zip(labels, (h[0].get_xydata()[0].tolist() for h in handles), strict=True))
    assert points == {"PSEC": [2.0, 0.5], "ASEC": [1.0, 1.0]}


def test_a_strip_shows_pictures_from_first_to_last_with_their_weights(tmp_path, drawn):
    images = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), dtype=np.uint8)
    pictures = tuple((10 * index, image) for index, image in enumerate(images))
    trace = Trace(np.arange(90.0)[:, None], np.zeros(90), np.zeros(90), pictures)
    figures.picture_strip(tmp_path / "strip.png", trace, ["walk"], count=3)
    assert_picture(tmp_path / "strip.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == [f"step {step}\nwalk {step:.2f}" for step in (0, 40, 80)]
    for axes, index in zip(drawn[0].axes, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), images[index])
