import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from coursekit.earlier import earlier, names_of
from coursekit.standins import STANDINS

SETUP = "import torch\nfrom coursekit.checks import check, passed, same"
RIGHT = "def box_area(boxes):\n    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])"
WRONG = RIGHT.replace("boxes[:, 3] - ", "boxes[:, 3] + ")
CHECK = 'check("box_area", box_area)\nsame(box_area(torch.tensor([[1.0, 2, 3, 5]])), [6], "2 wide, 3 high")\npassed()'
BOXES = torch.tensor([[1.0, 2, 4, 6]])


def meta(grade_id, solution=False, grade=False):
    return {"nbgrader": {"grade_id": grade_id, "solution": solution, "grade": grade, "locked": not solution, "schema_version": 3}}


@pytest.fixture
def lessons(tmp_path, monkeypatch):
    """A folder of lessons; `lessons(answer)` writes the first one's notebook, the second is where we stand."""
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    monkeypatch.delenv("COURSEKIT_GRADING", raising=False)

    def write(answer, name="01_boxes/boxes.ipynb", check=CHECK):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cells = [
            new_code_cell(SETUP, metadata=meta("setup")),
            new_code_cell(answer, metadata=meta("box_area", solution=True)),
            new_code_cell(check, metadata=meta("test_box_area", grade=True)),
        ]
        nbformat.write(new_notebook(cells=cells), path)

    (tmp_path / "02_anchors").mkdir()
    monkeypatch.chdir(tmp_path / "02_anchors")
    return write


def test_gives_the_students_function_where_it_passes(lessons, capsys):
    lessons(RIGHT + "  # mine")
    function = earlier("box_area")
    assert function is not STANDINS["box_area"] and function(BOXES).tolist() == [12]
    assert capsys.readouterr().out == "box_area: yours, from 01_boxes\n"


@pytest.mark.parametrize(
    "answer, why",
    [
        (WRONG, "until yours in 01_boxes passes its check"),
        ("def box_area(boxes):\n    raise NotImplementedError()", "until you write yours in 01_boxes"),
        ("def box_area(boxes:\n", "until yours in 01_boxes passes its check"),
        ("import no_such_module", "until yours in 01_boxes passes its check"),
    ],
)
def test_gives_the_librarys_function_until_the_students_passes(lessons, capsys, answer, why):
    lessons(answer)
    assert earlier("box_area") is STANDINS["box_area"]
    assert capsys.readouterr().out == f"box_area: the library's, {why}\n"


def test_gives_the_librarys_function_where_there_is_no_notebook(lessons, capsys):
    assert earlier("box_area") is STANDINS["box_area"]
    assert "as no notebook beside this one holds yours" in capsys.readouterr().out


def test_gives_the_librarys_function_while_grading(lessons, capsys, monkeypatch):
    lessons(RIGHT)
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert earlier("box_area") is STANDINS["box_area"]
    assert capsys.readouterr().out == "box_area: the library's, for grading\n"


def test_without_a_library_form_says_which_exercise_to_finish(lessons):
    with pytest.raises(LookupError, match="no library has this function, so finish that exercise first"):
        earlier("match_everything")


def test_a_broken_notebook_beside_does_not_matter(lessons, tmp_path, capsys):
    (tmp_path / "00_broken").mkdir()
    (tmp_path / "00_broken" / "broken.ipynb").write_text('{"box_area": "box_area"')
    lessons(RIGHT)
    assert earlier("box_area") is not STANDINS["box_area"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_check_has_gradients_where_the_caller_has_none(lessons, capsys, mode):
    check = CHECK.replace("passed()", "boxes = torch.ones(1, 4, requires_grad=True)\nbox_area(boxes).sum().backward()\npassed()")
    lessons(RIGHT, check=check)
    with mode():
        earlier("box_area")
    assert "yours, from 01_boxes" in capsys.readouterr().out


def test_working_directory_is_kept(lessons, tmp_path):
    from pathlib import Path

    lessons(RIGHT)
    earlier("box_area")
    assert Path.cwd() == tmp_path / "02_anchors"


def test_what_is_not_required_is_said_to_be_missing(lessons, capsys):
    assert earlier("no_such_exercise", required=False) is None
    assert "no_such_exercise: as no notebook beside this one holds yours" in capsys.readouterr().out


def test_names_of_a_lesson_are_those_of_its_setup_exercises_and_experiment(lessons, tmp_path, capsys):
    lessons(RIGHT + "  # mine")
    path = tmp_path / "01_boxes" / "boxes.ipynb"
    notebook = nbformat.read(path, as_version=4)
    seen = "def total(boxes):\n    return box_area(boxes).sum() * FACTOR\nFACTOR = 2\nprint('seen')"
    notebook.cells += [new_code_cell(seen, metadata={"tags": ["experiment"]}), new_code_cell("raise SystemExit('trained')")]
    nbformat.write(notebook, path)
    names = names_of("01_boxes")
    assert names["total"](BOXES) == 24 and capsys.readouterr().out == ""
    names["FACTOR"] = 3
    assert names["total"](BOXES) == 36
    with pytest.raises(FileNotFoundError, match="03_matching"):
        names_of("03_matching")
