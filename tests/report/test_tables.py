from psec_jax.evaluation.statistics import Summary
from psec_jax.report.tables import markdown, published_table, returns_table

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
