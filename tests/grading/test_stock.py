"""Plain `nbgrader autograde`, without judge and sandbox, gives honest hand-ins the same marks."""

import pytest

from autograder.build import expand
from autograder.grade import grade
from autograder.lessons import ROOT, sources

from .conftest import automatic_marks, hand_in, make_class
from .test_gradebook import nbgrader

# Between them every exercise is right once, and the later half of each lesson is wrong once.
KINDS = ("all right", "half right")


# Two short lessons: stock nbgrader runs all of a notebook, half a minute for a hand-in of one that trains.
@pytest.mark.slow
@pytest.mark.parametrize("path", sources()[:4:3], ids=lambda path: path.parent.name)
def test_stock_nbgrader_gives_the_same_marks(path, tmp_path):
    lesson, stock = make_class.Lesson(path), tmp_path / "stock"
    source = stock / "source" / lesson.name / f"{path.stem}.ipynb"
    source.parent.mkdir(parents=True)
    source.write_text(make_class.text_of(expand(path)), encoding="utf-8")
    expected = {}
    for kind in KINDS:
        notebook, points = make_class.KINDS[kind](lesson)
        hand_in(stock, kind.replace(" ", "-"), notebook, lesson.name)
        expected[kind.replace(" ", "-")] = sum(score or 0 for score in points.values())
    grade(ROOT, stock / "submitted", tmp_path / "ours", processes=2)
    nbgrader(stock, "generate_assignment", lesson.name)
    patient = ("--ExecutePreprocessor.shutdown_kernel=immediate", "--ExecutePreprocessor.timeout=120")
    nbgrader(stock, "autograde", lesson.name, *patient)
    marks = automatic_marks(stock, lesson.name)
    assert marks == automatic_marks(tmp_path / "ours", lesson.name)
    assert expected == {
        student: sum(score or 0 for (whose, _), (score, _) in marks.items() if whose == student)
        for student in expected
    }
