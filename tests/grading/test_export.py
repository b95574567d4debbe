"""Marks for Canvas, Moodle and Gradescope: only where they belong, together with what they need, no formulas."""

import csv
import io
import json

import pytest

from autograder import export, pages
from autograder.cli import main

from .conftest import changed, grade_class, make_class
from .test_gradebook import WRONG, mark_by_hand

PASSED, FAILED = (
    {"passed": True, "message": ""},
    {"passed": False, "message": "1 at [0], expected <2>: see -1"},
)


def item(name="box_area", score=2.0, points=2.0, visible=PASSED, hidden=PASSED, parts=None, **more):
    exercise = {"visible": visible, "hidden": hidden, "seconds": 0.1}
    parts = [(f"test_{name}", points, score == points, visible["message"])] if parts is None else parts
    return pages.Item(name, score, points, exercise=exercise, has_hidden=True, parts=parts, **more)


def marked(student, score=8.5, **more):
    return pages.Marked(student, "01_small", "small", [item(score=score, points=10.0, **more)], [], None, 1.0)


CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,Boxes (77),01_small (1234),Final Score
,,,,,,Manual Posting,
    Points Possible,,,,,5,10,(read only)
"Doe, Jane",501,s1,jane,A,4,,40
"Roe, Rick",502,s2,rick,A,3,7,30
"Poe, Pam",503,s3,pam,A,,,
"""


def rows(text, delimiter=","):
    return list(csv.reader(io.StringIO(text), delimiter=delimiter))


def test_canvas_gets_the_students_columns_and_the_one_assignment():
    text, notes = export.canvas(CANVAS, [marked("doejane_501"), marked("rick", 3.0)], "01_small")
    assert rows(text) == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "01_small (1234)"],
        ["", "", "", "", "", "Manual Posting"],
        ["    Points Possible", "", "", "", "", "10"],
        ["Doe, Jane", "501", "s1", "jane", "A", "8.5"],
        ["Roe, Rick", "502", "s2", "rick", "A", "3"],
        ["Poe, Pam", "503", "s3", "pam", "A", ""],
    ]
    assert notes == ["1 of 3 students of the template have no hand-in; their rows stay as they were"]


def test_canvas_file_with_semicolons_and_commas_in_numbers_stays_so():
    text, _ = export.canvas(
        "\ufeff" + CANVAS.replace(",", ";").replace("Doe; ", "Doe, ").replace(";10;", ";10,0;"),
        [marked("jane")],
        "01_small",
    )
    assert rows(text, ";")[3][-1] == "8.5" and rows(text, ";")[2][-1] == "10,0"


@pytest.mark.parametrize(
    "change, options, told",
    [
        (("01_small (1234)", "Quiz"), {}, "no columns for 01_small in Boxes (77), Quiz, Final Score"),
        (("Boxes (77)", "01_small again"), {}, "2 columns for 01_small"),
        (("Student,ID", "Name,Number"), {}, "expected those of Canvas"),
        (
            ("    Points Possible,,,,,5,10", "    Points Possible,,,,,5,20"),
            {},
            "has 10 points, the template's points possible is 20",
        ),
        (("x", "x"), {"column": "Essay"}, "no columns for Essay"),
        (("jane", "janet"), {}, "no student of the template has a hand-in"),
    ],
)
def test_canvas_template_that_does_not_fit_is_refused(change, options, told):
    with pytest.raises(export.ExportError) as caught:
        export.canvas(CANVAS.replace(*change), [marked("jane")], "01_small", **options)
    assert told in str(caught.value)


@pytest.mark.parametrize("title", ["Small (1234)", "Lesson 1: small boxes (1234)", "01_small"])
def test_canvas_column_is_found_by_the_lessons_name(title):
    text, _ = export.canvas(CANVAS.replace("01_small (1234)", title), [marked("jane")], "01_small")
    assert rows(text)[0][-1] == title


def test_canvas_column_of_a_lesson_of_two_words():
    one = pages.Marked("jane", "08_fast_rcnn", "fast_rcnn", [item(score=1.0, points=10.0)], [], None, 1.0)
    text, _ = export.canvas(CANVAS.replace("01_small (1234)", "Fast RCNN (1234)"), [one], "08_fast_rcnn")
    assert rows(text)[0][-1] == "Fast RCNN (1234)"


def test_canvas_column_may_be_named_and_points_scaled():
    text, notes = export.canvas(CANVAS, [marked("jane", 5.0)], "01_small", column="Boxes", scale=True)
    assert rows(text)[0][-1] == "Boxes (77)" and rows(text)[3][-1] == "2.5"
    assert "points scaled from 10 to 5" in notes


MOODLE = """Identifier,Full name,Email address,Status,Grade,Maximum Grade,Grade can be changed,Last modified (submission),Last modified (grade),Feedback comments
Participant 11,Jane Doe,j@x.org,Submitted for grading - ,,10.00,Yes,"Monday, 1 June 2026, 10:00 AM",-,
Participant 12,Rick Roe,r@x.org,No submission - ,3.00,10.00,Yes,-,-,well
"""


def test_moodle_gets_grade_and_feedback_together_and_all_else_as_it_was():
    wrong = marked("Jane Doe_11", 1.0, visible=FAILED)
    text, notes = export.moodle(MOODLE, [wrong], "01_small")
    before, after = rows(MOODLE), rows(text)
    assert after[1][4] == "1" and after[1][9].startswith(
        "01_small: 1 of 10 points<br>box_area: partly passed, 1 of 10<br>"
    )
    assert "expected &lt;2&gt;" in after[1][9]
    assert [row[:4] + row[5:9] for row in after] == [row[:4] + row[5:9] for row in before] and after[
        2
    ] == before[2]
    assert notes == ["1 of 2 students of the template have no hand-in; their rows stay as they were"]


@pytest.mark.parametrize("column", ["Grade", "Feedback comments", "Identifier"])
def test_moodle_without_grade_or_feedback_is_refused(column):
    with pytest.raises(
        export.ExportError, match=f"no column {column} in .*as one without the other loses marks"
    ):
        export.moodle(
            MOODLE.replace(f",{column},", ",X,")
            .replace(f",{column}\n", ",X\n")
            .replace(f"{column},Full", "X,Full"),
            [marked("x")],
            "01_small",
        )


def test_moodle_in_another_language():
    german = MOODLE.replace(",Grade,", ",Bewertung,").replace("Feedback comments", "Feedback als Kommentar")
    columns = {"grade": "Bewertung", "feedback": "Feedback als Kommentar", "id": None}
    text, _ = export.moodle(german, [marked("Jane Doe_11")], "01_small", columns)
    assert rows(text)[1][4] == "8.5"


def test_two_students_for_one_row_are_left_out():
    text, notes = export.moodle(
        MOODLE, [marked("Jane Doe_11"), marked("Jane Doe"), marked("Rick Roe")], "01_small"
    )
    assert rows(text)[1] == rows(MOODLE)[1] and rows(text)[2][4] == "8.5"
    assert "Jane Doe_11, Jane Doe: the same row of the template; left out" in notes


def test_templates_come_back_without_formulas():
    text, _ = export.canvas(
        CANVAS.replace('"Poe, Pam"', "\"=cmd|' /C calc'!A0\""), [marked("jane")], "01_small"
    )
    assert rows(text)[5][0] == "'=cmd|' /C calc'!A0"
    text, _ = export.moodle(MOODLE, [marked("Jane Doe_11", comment="=1+1")], "01_small")
    assert not [cell for row in rows(text) for cell in row if cell[:1] in "=+@" and cell]


def test_hidden_messages_leave_by_no_way():
    secret = {"passed": False, "message": "0.5, expected 1: the secret case"}
    one = marked("jane", 0.0, hidden=secret)
    assert "Hidden checks: not passed." in export.words(one)
    told = (
        "\n".join(export.words(one))
        + json.dumps(export.gradescope(one))
        + export.moodle(MOODLE.replace("Jane Doe", "jane"), [one], "01_small")[0]
    )
    assert "secret" not in told


# The form of results.json: gradescope-autograders.readthedocs.io, "Autograder Specifications"
VISIBILITY = {"hidden", "after_due_date", "after_published", "visible"}


def sound(told):
    assert set(told) <= {
        "score",
        "execution_time",
        "output",
        "output_format",
        "stdout_visibility",
        "visibility",
        "tests",
    }
    assert told["stdout_visibility"] in VISIBILITY and isinstance(told["output"], str)
    for test in told["tests"]:
        assert set(test) <= {"score", "max_score", "status", "name", "output", "output_format", "visibility"}
        assert (
            0 <= test["score"] <= test["max_score"]
            and test["visibility"] in VISIBILITY
            and isinstance(test["name"], str)
        )
        assert test["status"] in ("passed", "failed")
    if told["tests"]:
        assert told["score"] == sum(test["score"] for test in told["tests"])
    return told


def test_gradescope_has_a_test_for_each_check_cell():
    parts = [("test_box_iou", 3, False, FAILED["message"]), ("test_box_iou__empty", 1, True, "")]
    one = pages.Marked(
        "ada",
        "01_small",
        "small",
        [item(), item("box_iou", 1.0, 4.0, FAILED, parts=parts)],
        ["a note"],
        None,
        2.0,
    )
    told = sound(export.gradescope(one))
    assert [(test["name"], test["score"], test["max_score"]) for test in told["tests"]] == [
        ("test_box_area", 2.0, 2.0), ("test_box_iou", 0, 3), ("test_box_iou__empty", 1, 1)
    ]  # fmt: skip
    assert told["tests"][1]["output"] == FAILED["message"] and told["output"] == "a note"


def test_gradescope_has_the_points_that_a_person_gave():
    parts = [("test_box_iou", 3, False, FAILED["message"]), ("test_box_iou__empty", 1, True, "")]
    one = pages.Marked(
        "ada",
        "01_small",
        "small",
        [item("box_iou", 3.5, 4.0, FAILED, parts=parts, by_hand=True)],
        [],
        None,
        2.0,
    )
    assert [(test["name"], test["score"]) for test in sound(export.gradescope(one))["tests"]] == [
        ("box_iou", 3.5)
    ]


def gradescope_run(course, folder, *options):
    status = main(
        ["grade", "--course", str(course), "--gradescope", str(folder), "--timeout", "10", *options]
    )
    return status, sound(json.loads((folder / "results" / "results.json").read_text()))


def test_gradescope_run_writes_results_for_what_was_handed_in(course, small, tmp_path):
    submission = tmp_path / "submission"
    submission.mkdir()
    (submission / "small.ipynb").write_text(make_class.text_of(changed(small, box_iou=WRONG)))
    (submission / "torch.py").write_text("raise SystemError")
    status, told = gradescope_run(course, tmp_path)
    assert status == 0 and told["score"] == 2
    assert [(test["name"], test["status"]) for test in told["tests"]] == [
        ("test_box_area", "passed"), ("test_box_iou", "failed"), ("test_box_iou__empty", "failed")
    ]  # fmt: skip
    assert (
        "torch.py" in told["output"]
        and "A person marks why" in told["output"]
        and "secret" not in json.dumps(told)
    )


@pytest.mark.parametrize("content", [None, "", "{", "[]"], ids=["nothing", "empty", "broken", "list"])
def test_gradescope_run_writes_results_when_there_is_nothing_to_grade(course, tmp_path, content):
    (tmp_path / "submission").mkdir()
    if content is not None:
        (tmp_path / "submission" / "small.ipynb").write_text(content)
    status, told = gradescope_run(course, tmp_path)
    assert status == 0 and told["score"] == 0 and "small.ipynb" in told["output"]


def test_gradescope_run_writes_results_when_the_grader_fails(course, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "_graded_submission", lambda *_: 1 / 0)
    status, told = gradescope_run(course, tmp_path)
    assert status == 1 and told["score"] == 0 and "not your fault" in told["output"]
    assert "ZeroDivisionError" in capsys.readouterr().err and "Zero" not in told["output"]


@pytest.fixture(scope="module")
def graded(course, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graded")
    notebooks = {"jane": changed(small), "rick": changed(small, box_iou=WRONG), "Jane Doe_11": changed(small)}
    graded = grade_class(course, folder, notebooks)
    mark_by_hand(graded, "jane", "why", 3, "Well put.")
    return graded


def exported(graded, course, *arguments):
    return main(["export", *map(str, arguments), "--course", str(course), "--output", str(graded.output)])


def test_export_takes_marks_given_by_hand_since(graded, course, tmp_path, capsys):
    (tmp_path / "canvas.csv").write_text(CANVAS)
    assert exported(graded, course, "canvas", "--template", tmp_path / "canvas.csv") == 0
    told = capsys.readouterr()
    text = open(told.out.strip()).read()
    assert {row[3]: row[5] for row in rows(text)[3:]} == {"jane": "9", "rick": "2", "pam": ""}
    assert "2 hand-ins still wait for marks by hand, which count 0 in this file" in told.err
    (tmp_path / "moodle.csv").write_text(MOODLE)
    assert exported(graded, course, "moodle", "--template", tmp_path / "moodle.csv") == 0
    assert rows(open(capsys.readouterr().out.strip()).read())[1][4] == "6"


def test_export_of_csv_and_gradescope(graded, course, capsys):
    assert exported(graded, course, "csv") == 0
    table = {row["student"]: row["score"] for row in csv.DictReader(open(capsys.readouterr().out.strip()))}
    assert table == {"jane": "9", "rick": "2", "Jane Doe_11": "6"}
    assert exported(graded, course, "gradescope") == 0
    for student in ("jane", "rick"):
        sound(
            json.loads(
                (graded.output / "exports" / "gradescope" / student / "01_small" / "results.json").read_text()
            )
        )


@pytest.mark.parametrize(
    "arguments, told",
    [(["canvas"], "needs --template FILE"), (["moodle", "--template", "none.csv", "--lesson", "02_x"], "needs --lesson, one of 01_small"),
     (["canvas", "--template", "none.csv"], "No such file")],
)  # fmt: skip
def test_export_without_what_it_needs_says_so(graded, course, capsys, arguments, told):
    assert exported(graded, course, *arguments) == 2 and told in capsys.readouterr().err
