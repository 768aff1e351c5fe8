from psec_jax.evaluation.statistics import Summary
from psec_jax.report import published
from psec_jax.report.tables import markdown, published_table, returns_table, safety_table

ROWS = [("psec", "PSEC"), ("asec", "ASEC"), ("scratch", "from scratch")]
COLUMNS = ["S→W", "S→R"]


def summary(mean):
    return Summary(mean, 1.0, mean - 10.2, mean + 9.8, 20, 2)


SUMMARIES = {
    ("psec", "S→W"): summary(600.4),
    ("asec", "S→W"): summary(70.0),
    ("psec", "S→R"): summary(100.0),
    ("scratch", "S→R"): summary(200.0),
}


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_table_has_a_row_for_each_row_and_a_column_for_each_column():
    table = markdown(ROWS, COLUMNS, lambda key, column: f"{key} {column}", corner="method")
    header, rule, *body = cells(table)
    assert header == ["method", *COLUMNS]
    assert rule == ["---"] * 3
    assert body == [[label, *(f"{key} {c}" for c in COLUMNS)] for key, label in ROWS]


def test_the_best_of_each_column_is_bold_and_what_is_missing_a_dash():
    header, _, *body = cells(returns_table(SUMMARIES, ROWS, COLUMNS))
    assert header == ["", *COLUMNS]
    assert body == [
        ["PSEC", "**600** [590, 610]", "100 [90, 110]"],
        ["ASEC", "70 [60, 80]", "–"],
        ["from scratch", "–", "**200** [190, 210]"],
    ]


def test_the_best_is_that_of_the_rows_shown():
    _, _, *body = cells(returns_table(SUMMARIES, ROWS[:2], COLUMNS))
    assert body[0] == ["PSEC", "**600** [590, 610]", "**100** [90, 110]"]


def test_published_numbers_stand_where_there_are_some():
    numbers = {"psec": {"S→W": 688.0, "S→R": 221.5}, "asec": {"S→W": 65.7}}
    assert cells(published_table(numbers, ROWS, COLUMNS))[2:] == [
        ["PSEC", "688", "221.5"],
        ["ASEC", "65.7", "–"],
    ]


def test_scores_have_as_many_digits_as_asked_for():
    body = cells(returns_table(SUMMARIES, ROWS, COLUMNS, digits=1))[2:]
    assert body[0][1] == "**600.4** [590.2, 610.2]"


def pair(reward, cost):
    return summary(reward), summary(cost)


def test_safe_cells_are_bold_and_the_best_safe_reward_of_a_line_is_marked():
    """However rewarding an unsafe method is, and a cost of just the limit is safe."""
    found = {
        ("psec", "bullet/carrun"): pair(0.5, 1.0),
        ("asec", "bullet/carrun"): pair(0.9, 1.01),
        ("scratch", "bullet/carrun"): pair(0.4, 0.2),
        ("psec", "bullet/ballrun"): pair(0.3, 3.0),
    }
    header, _, *body = cells(safety_table(found, ROWS, ["bullet/carrun", "bullet/ballrun"]))
    assert header == ["reward / cost", "PSEC", "ASEC", "from scratch"]
    assert body == [
        ["bullet/carrun", "**0.50 / 1.00***", "0.90 / 1.01", "**0.40 / 0.20**"],
        ["bullet/ballrun", "0.30 / 3.00", "–", "–"],
        ["BulletGym mean (2 tasks)", "0.40 / 2.00", "–", "–"],
    ]


def test_one_task_has_no_family_mean_and_intervals_are_shown_when_asked_for():
    found = {("psec", "metadrive/easymean"): pair(0.5, 20.0)}
    _, _, *body = cells(safety_table(found, ROWS, ["metadrive/easymean"], intervals=True))
    assert body == [["metadrive/easymean", "0.50 [-9.70, 10.30] / 20.00 [9.80, 29.80]", "–", "–"]]


def test_the_papers_scores_stand_in_their_columns():
    columns = ["walker2d medium, gravity", "walker2d medium-good, thigh", "hopper medium, thigh"]
    assert published.dynamics_shift(columns) == {
        "psec": {columns[0]: 57, columns[1]: 71},
        "best_baseline": {columns[0]: 50, columns[1]: 55},
    }
    header, _, *body = cells(published.multi_objective(["bullet/carrun"]))
    assert body[0][0] == "bullet/carrun" and body[0][-1] == "0.83 / 0.00"
    assert body[1][0] == "BulletGym mean" and len(body) == 2
    assert body[1][header.index("FISOR")] == "0.39 / 0.10"
