"""nbgrader's commands go on working on what `autograder grade` leaves, and mark honest hand-ins the same."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook

from autograder.build import expand
from autograder.cli import main
from autograder.grade import grade
from autograder.gradebook import COURSE

from .conftest import Graded, changed, grade_class, hand_in, make_class, shared

WRONG = "def box_iou(boxes1, boxes2):\n    return 1"


def open_gradebook(root, course_id=COURSE):
    return Gradebook(f"sqlite:///{root / 'gradebook.db'}", course_id)


def nbgrader(root, *command):
    """Run an nbgrader command on the course folder `root`."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    command = [sys.executable, "-m", "nbgrader", *command, f"--CourseDirectory.course_id={COURSE}"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def exported(root, name="grades.csv"):
    nbgrader(root, "export", f"--to={name}", "--db", f"sqlite:///{root / 'gradebook.db'}")
    with open(root / name, newline="") as file:
        return {
            row["student_id"]: (float(row["raw_score"]), float(row["max_score"]))
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def graded_once(course, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graded")
    return grade_class(course, folder, {"right": changed(small), "half": changed(small, box_iou=WRONG)})


@pytest.fixture
def graded(graded_once, tmp_path):
    """A copy of a graded class, to do with as a test likes."""
    shutil.copytree(graded_once.output, tmp_path, dirs_exist_ok=True)
    return Graded(tmp_path)


def mark_by_hand(graded, student, cell, points, comment):
    with open_gradebook(graded.output) as gradebook:
        grade = gradebook.find_grade(cell, "small", "01_small", student)
        grade.manual_score, grade.needs_manual_grade = points, False
        gradebook.find_comment("why", "small", "01_small", student).manual_comment = comment
        gradebook.db.commit()


def test_manual_marks_and_comments_survive_a_regrade(graded, course, small):
    mark_by_hand(graded, "half", "why", 3, "Well put. <script>alert(1)</script>")
    mark_by_hand(graded, "right", "test_box_area", 1, "")  # a person overrules a check
    again = grade_class(course, graded.output, {"half": changed(small)})
    assert again.marks("half")["why"] == "3" and again.marks("half")["score"] == "9"
    assert again.marks("half")["waiting"] == "0" and again.marks("half")["status"] == "marked"
    assert "Well put. &lt;script&gt;" in again.page("half") and "<script" not in again.page("half")
    assert again.marks("right")["box_area"] == "1"


def test_grading_one_student_keeps_the_others(graded, course, small):
    again = grade_class(course, graded.output, {"half": changed(small), "right": "{"}, students=["half"])
    assert again.scores("half") == (2, 4) and again.scores("right") == (2, 4)
    assert "right" in (again.output / "report.html").read_text()


def test_nbgrader_generates_feedback_and_exports(graded):
    assert exported(graded.output) == {"right": (6, 10), "half": (2, 10)}
    nbgrader(
        graded.output,
        "generate_feedback",
        "01_small",
        "--student",
        "half",
        "--CourseDirectory.feedback_directory=theirs",
    )
    assert "box_iou" in (graded.output / "theirs" / "half" / "01_small" / "small.html").read_text(
        encoding="utf-8"
    )


def test_formgrader_sees_what_was_graded(graded):
    """What its pages show comes from these calls; `why` waits for a mark, and the notebooks are where it looks."""
    from nbgrader.apps.api import NbGraderAPI
    from traitlets.config import Config

    config = Config({"CourseDirectory": {"root": str(graded.output), "course_id": COURSE}})
    config.CourseDirectory.db_url = f"sqlite:///{graded.output / 'gradebook.db'}"
    api = NbGraderAPI(config=config)
    seen = {one["student"]: one for one in api.get_submissions("01_small")}
    assert {student: (one["score"], one["max_score"]) for student, one in seen.items()} == {
        "right": (6, 10),
        "half": (2, 10),
    }
    assert all(one["autograded"] and one["needs_manual_grade"] and one["submitted"] for one in seen.values())
    notebooks = api.get_notebook_submissions("01_small", "small")
    assert {one["student"]: one["failed_tests"] for one in notebooks} == {"right": False, "half": True}
    text = (graded.output / "autograded" / "half" / "01_small" / "small.ipynb").read_text(encoding="utf-8")
    nbformat.validate(nbformat.reads(text, as_version=4))


@pytest.mark.slow
def test_stock_nbgrader_gives_the_same_marks(graded, course, small, tmp_path):
    """Source, release, autograde and gradebook all by nbgrader's own commands, its config aside."""
    stock = tmp_path / "stock"
    source = course / "solutions" / "01_small" / "small.py"
    (stock / "source" / "01_small").mkdir(parents=True)
    (stock / "source" / "01_small" / "small.ipynb").write_text(make_class.text_of(expand(source)))
    classes = {"right": changed(small), "half": changed(small, box_iou=WRONG), "untouched": small.release}
    for student, notebook in classes.items():
        hand_in(stock, student, notebook)
    ours = grade_class(course, graded.output, classes)
    nbgrader(stock, "generate_assignment", "01_small")
    nbgrader(stock, "autograde", "01_small", "--ExecutePreprocessor.shutdown_kernel=immediate")
    scores = exported(stock)
    assert scores == exported(ours.output) == {"right": (6, 10), "half": (2, 10), "untouched": (0, 10)}
    cells = {"test_box_area", "test_box_iou", "test_box_iou__empty", "why"}
    with open_gradebook(stock) as theirs, open_gradebook(ours.output) as our_book:
        for student in classes:
            for cell in cells:
                place = (cell, "small", "01_small", student)
                one, other = theirs.find_grade(*place), our_book.find_grade(*place)
                assert (one.auto_score, one.max_score) == (other.auto_score, other.max_score), place
                assert one.needs_manual_grade == other.needs_manual_grade, place


def with_other_lesson(course, folder, *edits):
    """A copy of the course whose lesson has other text: (old, new) for each edit."""
    shutil.copytree(course / "solutions", folder / "solutions")
    source = folder / "solutions" / "01_small" / "small.py"
    for old, new in edits:
        assert old in source.read_text()
        source.write_text(source.read_text().replace(old, new))
    return folder


def test_lesson_may_change_after_it_was_graded(graded, course, tmp_path):
    """Other points, a cell under another name: graded again; marks by hand stay, no old cell counts."""
    mark_by_hand(graded, "half", "why", 3, "Well put.")
    edits = ('part="empty"', 'part="none"'), ('check="box_area" points=2', 'check="box_area" points=5')
    again = Graded(
        grade(
            with_other_lesson(course, tmp_path / "changed", *edits),
            tmp_path / "submitted",
            tmp_path,
            run=shared,
        ).parent
    )
    assert (again.marks("half")["score"], again.marks("half")["max_score"]) == ("8", "13")
    assert again.marks("half")["why"] == "3" and again.scores("right") == (5, 4)
    assert exported(tmp_path) == {"right": (9, 13), "half": (8, 13)}


def test_cell_marked_by_hand_may_not_go_and_the_way_out_is_told(graded, course, tmp_path, capsys):
    mark_by_hand(graded, "half", "test_box_iou__empty", 1, "")
    changed_course = with_other_lesson(course, tmp_path / "changed", ('part="empty"', 'part="none"'))
    folders = ["--submitted", str(tmp_path / "submitted"), "--output", str(tmp_path)]
    before = sorted((tmp_path / "results").rglob("*.json"))
    assert main(["grade", "--course", str(changed_course), *folders]) == 2
    told = capsys.readouterr().err
    assert "test_box_iou__empty" in told and "nbgrader db assignment remove 01_small" in told
    assert sorted((tmp_path / "results").rglob("*.json")) == before  # refused before anything was graded


@pytest.mark.parametrize(
    "options, told",
    [
        (["--lesson", "77_none"], "no lesson '77_none'; there are 01_small"),
        (["--student", "nobody"], "no student 'nobody'; there are half, right"),
        (["--submitted", "nowhere"], "expected nowhere/STUDENT/NN_topic/topic.ipynb"),
    ],
    ids=["lesson", "student", "folder"],
)
def test_unknown_names_are_refused(graded, course, capsys, options, told):
    paths = [
        "--course",
        str(course),
        "--submitted",
        str(graded.output / "submitted"),
        "--output",
        str(graded.output),
    ]
    assert main(["grade", *paths, *options]) == 2
    assert told in capsys.readouterr().err


def test_command_prints_marks_and_where_the_report_lies(graded, course, capsys):
    paths = [
        "--course",
        str(course),
        "--submitted",
        str(graded.output / "submitted"),
        "--output",
        str(graded.output),
    ]
    assert main(["grade", *paths, "-j", "1", "--student", "half"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["half", "01_small", "2", "of", "10", "waits", "for", "marks", "by", "hand"]
    assert told[-1] == f"report: {graded.output / 'report.html'}" and (graded.output / "report.html").exists()


def test_config_names_the_same_course():
    import autograder

    text = (Path(autograder.__file__).parent / "nbgrader_config.py").read_text()
    assert f'course_id = "{COURSE}"' in text
