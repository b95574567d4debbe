"""What cells can do, and the mark: honest hand-ins all points, broken ones all but the broken exercise."""

import copy
import json
import time

import nbformat
import pytest

from .conftest import changed, grade_class, hand_in, make_class

AREA = "def box_area(boxes):\n    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])\n"
SCRIPT = "<script>alert(1)</script>"


def insert_before(grade_id, source, kind="code"):
    """A cell of the student's own before the cell `grade_id`."""

    def change(notebook):
        make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        notebook.cells.insert(notebook.cells.index(make_class.find(notebook, grade_id)), make(source))

    return change


def without_metadata(notebook):
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = nbformat.NotebookNode(), f"colab-{number}"


def check_moved_to_the_front(notebook):
    cell = make_class.find(notebook, "test_box_area")
    notebook.cells.remove(cell)
    notebook.cells.insert(0, cell)


def every_cell_twice(notebook):
    notebook.cells = [copy.deepcopy(cell) for cell in notebook.cells for _ in range(2)]


def untouched_copy_at_the_end(lesson):
    def change(notebook):
        notebook.cells.append(copy.deepcopy(make_class.find(lesson.release, "box_area")))

    return change


def demonstration_with_a_helper(notebook):
    demonstration = next(cell for cell in notebook.cells if "SystemError" in cell.source)
    demonstration.source = "import math\ndef share(a, b):\n    return a / b\nraise SystemError"


def remove(grade_id):
    return lambda notebook: notebook.cells.remove(make_class.find(notebook, grade_id))


def edited(grade_id, source):
    def change(notebook):
        make_class.find(notebook, grade_id).source = source

    return change


def honest(lesson):
    """Hand-ins that earn all points."""
    iou = lesson.exercises["box_iou"].reference
    return {
        "right": changed(lesson),
        "prints": changed(lesson, box_area=AREA.replace("    return", "    print('x' * 10000)\n    return")),
        "warns on stderr": changed(
            lesson,
            box_area="import sys, warnings\n"
            + AREA.replace("    return", "    warnings.warn('x'); print('x', file=sys.stderr)\n    return"),
        ),
        "magics": changed(
            lesson, insert_before("box_area", "%matplotlib inline\n!exit 3"), box_area="%%time\n" + AREA
        ),
        "plots": changed(
            lesson, insert_before("box_area", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
        ),
        "helper in an added cell": changed(
            lesson,
            insert_before(
                "box_area", "def side(boxes, axis):\n    return boxes[:, axis + 2] - boxes[:, axis]"
            ),
            box_area="def box_area(boxes):\n    return side(boxes, 0) * side(boxes, 1)",
        ),
        "helper after the exercise": changed(
            lesson, insert_before("test_box_area", "two = 2"), box_area=AREA.replace("2]", "two]")
        ),
        "helper in a demonstration": changed(
            lesson,
            demonstration_with_a_helper,
            box_iou=iou.replace("return shared / (", "return share(shared, "),
        ),
        "added cell that fails": changed(lesson, insert_before("box_area", "import sys\n1 / 0")),
        "added cell that exits": changed(lesson, insert_before("box_area", "import sys\nsys.exit(1)")),
        "added cell that never ends": changed(
            lesson, insert_before("box_area", "seven = 7\nwhile True: pass")
        ),
        "tries it in the cell for ever": changed(lesson, box_area=AREA + "\nwhile True: pass"),
        "windows line ends": changed(lesson, box_area=AREA.replace("\n", "\r\n") + "\r\n\r\n"),
        "asks whether it is graded": changed(
            lesson,
            box_area="import os\nassert os.environ['NBGRADER_EXECUTION'] == 'autograde'\n"
            + AREA,  # training.fit asks too
        ),
        "metadata lost": changed(lesson, without_metadata),
        "check moved to the front": changed(lesson, check_moved_to_the_front),
        "every cell twice": changed(lesson, every_cell_twice),
        "untouched copy at the end": changed(lesson, untouched_copy_at_the_end(lesson)),
        "check deleted": changed(lesson, remove("test_box_area")),
        "check edited": changed(lesson, edited("test_box_area", "assert False")),
        "setup deleted": changed(lesson, remove("setup")),
        "setup edited": changed(lesson, edited("setup", "1 / 0")),
        "notebook format 3": json.dumps(nbformat.convert(lesson.answered(), 3)),
        "metadata that is none": changed(
            lesson, lambda notebook: notebook.cells[0].metadata.update(nbgrader="what")
        ),
    }


def spoilt(lesson):
    """Hand-ins that lose points: student -> (notebook, scores of box_area and box_iou)."""
    iou = lesson.exercises["box_iou"].reference
    die = "    import os; os._exit(0)\n    return"
    return {
        "area has a syntax error": (changed(lesson, box_area="def box_area(boxes)\n    return 1"), (0, 4)),
        "area never ends": (
            changed(lesson, box_area=AREA.replace("    return", "    while True: pass\n    return")),
            (0, 4),
        ),
        "area never ends, catches all": (
            changed(
                lesson,
                box_area="def box_area(boxes):\n    while True:\n        try:\n            while True: pass\n"
                "        except BaseException: pass",
            ),
            (0, 4),
        ),
        "area kills its process": (changed(lesson, box_area=AREA.replace("    return", die)), (0, 4)),
        "area exits": (
            changed(lesson, box_area=AREA.replace("    return", "    raise SystemExit\n    return")),
            (0, 0),
        ),
        "iou kills its process": (
            changed(lesson, box_iou=iou.replace("    top_left", die + "\n    top_left")),
            (2, 0),
        ),
        "area is missing": (changed(lesson, remove("box_area")), (0, 4)),
        "area's cell is empty": (changed(lesson, box_area=""), (0, 4)),
        "area's cell kills": (changed(lesson, box_area="import os; os._exit(0)"), (0, 4)),
        "area is wrong, so is what uses it": (
            changed(lesson, box_area="def box_area(boxes):\n    return 7"),
            (0, 0),
        ),
        "iou fails on empty boxes only": (
            changed(lesson, box_iou=iou.replace("    top_left", "    boxes1[0]\n    top_left", 1)),
            (2, 3),
        ),
        "area is a number": (changed(lesson, box_area="box_area = 3"), (0, 0)),
        "null byte": (changed(lesson, box_area=AREA + "\0"), (0, 4)),
        "lone surrogate": (changed(lesson, box_area="'SURROGATE'"), (0, 4)),
    }


UNREADABLE = {
    "zero bytes": "",
    "no json": "{",
    "a json list": "[]",
    "no cells": json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}),
    "cells that are none": json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [3]}),
    "deep json": "[" * 100_000,
    "format 99": json.dumps({"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}),
}
HOSTILE = f"<img src=x onerror=alert(1)> & {'é' * 3}"


@pytest.fixture(scope="module")
def graded(course, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graded")
    notebooks = {
        **honest(small),
        **{student: notebook for student, (notebook, _) in spoilt(small).items()},
        **UNREADABLE,
    }
    surrogate = json.loads(make_class.text_of(notebooks["lone surrogate"]).replace("SURROGATE", "\\ud800"))
    notebooks["lone surrogate"] = json.dumps(surrogate)
    notebooks["kills the grader"] = changed(small, box_area="import os\nos.kill(os.getppid(), 9)")
    notebooks["untouched"] = small.release
    notebooks["another lesson"] = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    raising = AREA.replace("    return", f"    raise ValueError({SCRIPT!r})\n    return")
    notebooks[HOSTILE] = changed(small, insert_before("box_area", SCRIPT, "markdown"), box_area=raising)
    wrong_name = hand_in(folder, "wrong name", "{}")
    wrong_name.rename(wrong_name.with_name("small (1).ipynb"))
    link = hand_in(folder, "link", "{}")
    link.unlink()
    link.symlink_to(course / "solutions" / "01_small" / "small.py")
    (folder / "submitted" / "right" / "99_unknown").mkdir(parents=True)
    (folder / "submitted" / "right" / "01_small").mkdir()
    (folder / "submitted" / "right" / "01_small" / "torchvision.py").write_text("raise SystemError")
    return grade_class(course, folder, notebooks, run=None)


def test_honest_hand_ins_earn_all_points(graded, small):
    scores = {student: graded.scores(student) for student in honest(small)}
    assert scores == {student: (2, 4) for student in scores}


def test_what_is_broken_costs_its_own_exercise(graded, small):
    expected = {student: scores for student, (_, scores) in spoilt(small).items()}
    assert {student: graded.scores(student) for student in expected} == expected


@pytest.mark.parametrize("student", [*UNREADABLE, "wrong name", "link"])
def test_unreadable_hand_in_gets_nothing_and_a_note(graded, student):
    row = graded.marks(student)
    assert row["score"] == "0" and row["waiting"] == "0" and row["status"] == "not graded"
    assert "small.ipynb" in row["notes"] and "small.ipynb" in graded.page(student)


def test_notes_say_what_to_do(graded):
    assert "found small (1).ipynb: rename it" in graded.marks("wrong name")["notes"]
    assert "is a link" in graded.marks("link")["notes"]
    assert "is it the notebook of another lesson?" in graded.marks("another lesson")["notes"]
    assert "(0 bytes)" in graded.marks("zero bytes")["notes"]


@pytest.mark.parametrize(
    "student, note",
    [
        ("check deleted", "the check cell test_box_area is missing; it was put back"),
        ("check edited", "the check cell test_box_area was edited; the lesson's own was used"),
        ("setup edited", "the setup cell setup was edited; the lesson's own was used"),
        ("area is missing", "the exercise cell box_area is missing"),
        ("every cell twice", "the cell box_area stands 2 times; the last changed one counts"),
        ("metadata lost", "without their nbgrader metadata, known again by name or text: "),
        ("added cell that never ends", "the cell added by the student was not run to its end"),
        ("right", "files beside the notebook, ignored: torchvision.py"),
    ],
)
def test_what_was_put_right_is_noted(graded, student, note):
    assert note in graded.marks(student)["notes"]
    assert note.split("'")[0] in graded.page(student)


@pytest.mark.parametrize(
    "student", ["prints", "magics", "plots", "windows line ends", "helper in a demonstration"]
)
def test_honest_hand_in_has_no_notes(graded, student):
    assert graded.marks(student)["notes"] == ""


def test_feedback_says_what_happened(graded):
    assert "SyntaxError: expected &#39;:&#39;, line 1 of the cell" in graded.page("area has a syntax error")
    assert "a call was not done after 2 s: is there a loop that never ends?" in graded.page("area never ends")
    assert "the process ended (exit code 0)" in graded.page("area kills its process")
    assert "box_area is not defined" in graded.page("area's cell is empty")
    assert 'test_box_iou__empty</code></th><td class="number">0 of 1</td>' in graded.page(
        "iou fails on empty boxes only"
    )


def test_killing_the_grader_reaches_nothing(graded):
    row = graded.marks("kills the grader")
    assert (row["box_area"], row["box_iou"]) == ("0", "4") and "process" not in row["notes"]


def test_hand_in_has_a_time_limit_of_its_own(course, small, monkeypatch):
    from autograder import handin, judge
    from autograder.sandbox import Sandbox

    monkeypatch.setattr(judge, "BUDGET", 3)
    notebook = changed(small)
    for _ in range(8):
        insert_before("box_iou", "while True: pass")(notebook)
    lesson = handin.load_lesson(course / "solutions" / "01_small" / "small.py")
    cells, _ = handin.read(make_class.text_of(notebook).encode())
    with Sandbox() as sandbox:
        sandbox.open()
        started = time.monotonic()
        verdicts = judge.judge_hand_in(lesson, handin.restore(lesson, cells), sandbox, timeout=1.5)
    assert time.monotonic() - started < 8 and verdicts["box_area"].score == 2
    assert verdicts["box_iou"].visible["message"] == "not reached: the hand-in had used its 4.5 s"


def test_untrusted_text_is_escaped(graded):
    page, report = graded.page(HOSTILE), (graded.output / "report.html").read_text(encoding="utf-8")
    for text in (page, report):
        assert "<img" not in text and "<script" not in text and "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_pages_hold_no_hidden_check(graded):
    pages = list((graded.output / "feedback").rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "secret" not in text and "HIDDEN" not in text, page


def test_pages_can_be_read_aloud_and_on_a_phone(graded):
    for text in (graded.page("right"), (graded.output / "report.html").read_text(encoding="utf-8")):
        assert '<html lang="en">' in text and 'name="viewport"' in text and text.count("<h1>") == 1
        assert '<th scope="col">' in text and '<th scope="row">' in text and "<caption" in text


def test_report_names_what_is_no_lesson(graded):
    assert (
        "right/99_unknown: no lesson of the course has this name"
        in (graded.output / "report.html").read_text()
    )


def test_written_answers_wait_and_untouched_ones_do_not(graded):
    assert (
        graded.marks("right")["waiting"] == "4"
        and graded.marks("right")["status"] == "waits for marks by hand"
    )
    assert graded.marks("untouched")["waiting"] == "0" and graded.marks("untouched")["score"] == "0"
    assert "A person reads and marks this answer" in graded.page("right")
    assert "box_area is not written yet" in graded.page("untouched") and "no answer" in graded.page(
        "untouched"
    )
