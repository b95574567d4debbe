"""The bundled class, made from real lessons: each hand-in gets the mark that its kind must get."""

import csv
import html

import pytest

from autograder.grade import grade
from autograder.lessons import ROOT, exercises_of, sources
from coursekit.checks import known_mistakes

from .conftest import make_class

# The first lesson, and the last, whose exercises are a class too; `make grade` runs them all.
SOURCES = [path for path in sources() if path.parent.name in ("01_boxes", "05_ssd")]
LESSONS = [path.parent.name for path in SOURCES]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    expected = make_class.make(folder, ROOT, LESSONS)
    grade(ROOT, folder / "submitted", folder, processes=2, timeout=6.0)
    with open(folder / "marks.csv", newline="", encoding="utf-8") as file:
        rows = {(row["student"], row["lesson"]): row for row in csv.DictReader(file)}
    return folder, expected, rows


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("kind", make_class.KINDS)
def test_hand_in_gets_the_mark_it_should(graded, kind, lesson):
    folder, expected, rows = graded
    student = kind.replace(" ", "-")
    row, points = rows[student, lesson], expected[student][lesson]
    assert {name: float(row[name]) for name in points} == {name: score or 0 for name, score in points.items()}
    assert float(row["score"]) == sum(score or 0 for score in points.values())
    assert (float(row["waiting"]) > 0) == (None in points.values())
    assert (folder / "feedback" / student / lesson / f"{lesson[3:]}.html").exists()
    assert (row["status"] == "not graded") == (kind in ("empty notebook", "empty file", "not a notebook"))


@pytest.mark.parametrize("path", SOURCES, ids=LESSONS)
def test_points_add_up_to_those_of_the_exercises(graded, path):
    _, expected, rows = graded
    exercises = exercises_of(path)
    assert sum(expected["all-right"][path.parent.name][name] for name in exercises) == sum(
        e.points for e in exercises.values()
    )
    assert not any(expected["all-wrong"][path.parent.name][name] for name in exercises)
    assert float(rows["all-right", path.parent.name]["score"]) > 0


def test_named_mistakes_reach_the_student(graded):
    folder, _, _ = graded
    page = (folder / "feedback" / "all-wrong" / "01_boxes" / "boxes.html").read_text(encoding="utf-8")
    named = [
        name
        for name in exercises_of(SOURCES[0])
        if any(html.escape(m["message"]) in page for m in known_mistakes().get(name, ()))
    ]
    assert len(named) >= 3


def test_no_page_holds_a_hidden_check(graded):
    folder, _, _ = graded
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (folder / "feedback").rglob("*.html"))
    for path in SOURCES:
        for exercise in exercises_of(path).values():
            for check in exercise.checks:
                hidden = set(check.source.splitlines()) - set(check.visible.splitlines())
                for line in hidden:
                    assert len(line.strip()) < 12 or html.escape(line.strip()) not in pages, line


def test_class_is_made_anew_but_never_over_other_files(tmp_path):
    make_class.make(tmp_path / "class", ROOT, LESSONS[:1], ["untouched"])
    make_class.make(tmp_path / "class", ROOT, LESSONS[:1], ["empty file"])
    assert [path.name for path in (tmp_path / "class" / "submitted").iterdir()] == ["empty-file"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(FileExistsError, match="no sample class"):
        make_class.make(tmp_path / "mine", ROOT, LESSONS[:1], ["untouched"])
    assert (tmp_path / "mine" / "thesis.txt").exists()
