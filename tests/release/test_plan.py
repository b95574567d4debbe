"""A term's plan: read from the lessons' sources, put into the page by the build."""

import pytest

from autograder import plan
from autograder.lessons import ROOT, all_exercises, read_cells, sources


@pytest.mark.parametrize(
    "text, expected",
    [
        ("**Time:** about two and a half hours. Six exercises take about 95 minutes", 150),
        ("**Time:** about 90 minutes.", 90),
        ("With two questions, one training of about two minutes and the reading this takes about one and three\nquarter hours.", 105),
        ("This takes about two and a quarter hours.", 135),
        ("**Time:** about an hour.", 60),
        ("**Time:** about 2.5 hours", 150),
        ("A training of about two minutes.", None),
        ("It takes about a good while and some hours", None),
    ],
)
def test_minutes_that_a_lesson_says(text, expected):
    assert plan.minutes(text) == expected


@pytest.mark.parametrize("minutes, shown", [(150, "2½"), (100, "1¾"), (45, "¾"), (120, "2"), (0, "0"), (None, "not said")])
def test_hours_to_the_quarter(minutes, shown):
    assert plan.hours(minutes) == shown


@pytest.mark.parametrize("row", list(plan.rows()), ids=lambda row: row[0])
def test_every_lesson_says_how_long_it_takes(row):
    assert row[2] is not None, 'write "**Time:** about two hours" into the first text of the lesson'


def test_points_and_exercises_are_those_of_the_judge():
    found = list(plan.rows())
    assert [name for name, *_ in found] == [path.parent.name for path in sources()]
    judged = sum(exercise.points for exercise in all_exercises().values())
    files = [cell.metadata["nbgrader"]["points"] for path in sources() for cell in read_cells(path) if "detections" in cell.metadata]
    assert len(files) == 1, "the last lesson's file of detections is marked too"
    assert sum(checked for *_, checked, _, _ in found) == judged + files[0]
    assert [name for *_, names in found for name in names] == list(all_exercises())


def test_page_has_todays_table():
    assert plan.renew(check=True) == [], "run `autograder build`"
    assert f"\n{plan.table()}\n" in (ROOT / plan.PAGE).read_text(encoding="utf-8")


def test_build_renews_the_table_and_leaves_the_rest(tmp_path):
    page = tmp_path / plan.PAGE
    page.parent.mkdir(parents=True)
    page.write_text("before\n<!-- plan -->\nold\n<!-- /plan -->\nafter\n")
    lesson = tmp_path / "solutions/01_small/small.py"
    lesson.parent.mkdir(parents=True)
    lesson.write_text('# %% [markdown]\nr"""\n# 1 · Small\n\n**Time:** about an hour and more\n"""\n\n'
                      '# %% written="why" points=3\nr"""\nBecause.\n"""\n')  # fmt: skip
    assert plan.renew(check=True, root=tmp_path) == [plan.PAGE] and "old" in page.read_text()
    assert plan.renew(root=tmp_path) == [plan.PAGE] and plan.renew(root=tmp_path) == []
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| 01 Small | 1 | 0 | 0 | 3 |\n| all | 1 | 0 | 0 | 3 |" in text
