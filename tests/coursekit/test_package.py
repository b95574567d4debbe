"""`write_package`: what it copies, from which cells, and that it loses nobody's edits."""

import importlib
import linecache
import sys

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from coursekit.earlier import earlier
from coursekit.package import write_package

SETUP = "import math\nimport torch\nfrom coursekit.checks import check, passed, same\n"


def cell(source, grade_id, solution=False, grade=False):
    meta = {"grade_id": grade_id, "solution": solution, "grade": grade, "locked": not solution, "schema_version": 3}
    return new_code_cell(source, metadata={"nbgrader": meta})


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """`notebook(answer, *cells)` writes lesson 01 with that answer and gives the names of lesson 02 with these cells."""
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    monkeypatch.delenv("COURSEKIT_GRADING", raising=False)
    (tmp_path / "01_boxes").mkdir()
    (tmp_path / "02_mine").mkdir()
    monkeypatch.chdir(tmp_path / "02_mine")

    def make(answer, *cells):
        check = 'check("box_area", box_area)\nsame(box_area(torch.tensor([[1.0, 2, 3, 5]])), [6], "2 by 3")\npassed()'
        parts = [cell(SETUP, "setup"), cell(answer, "box_area", solution=True), cell(check, "test_box_area", grade=True)]
        nbformat.write(new_notebook(cells=parts), tmp_path / "01_boxes" / "boxes.ipynb")
        names = {"__name__": "__main__", "In": [""], "earlier": earlier}
        for source in cells:
            names["In"].append(source)
            if not source.startswith("%"):
                exec(compile(source, "cell", "exec"), names)
        return names

    return make


AREA = """\
SIDES = 2  # width and height


# my own helper
def side(boxes, axis):
    return boxes[:, axis + SIDES] - boxes[:, axis]


def box_area(boxes):
    return side(boxes, 0) * side(boxes, 1)
"""
USES = 'import torch\nboxes = 5\nbox_area = earlier("box_area")\n\n\ndef total(boxes):\n    return torch.sum(box_area(boxes)).item()\n'


def package(monkeypatch):
    """The package `mine` of this folder, imported anew."""
    monkeypatch.syspath_prepend(".")
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]
    return importlib.import_module("mine")


def total(monkeypatch):
    return package(monkeypatch).total(torch.tensor([[0.0, 0, 2, 3], [1, 1, 2, 2]]))


def test_a_function_comes_with_helpers_constants_and_comments_and_nothing_else(notebook, capsys, monkeypatch):
    names = notebook(AREA, "%matplotlib inline", USES, "total(torch.ones(1, 4))")
    capsys.readouterr()
    place = write_package("mine", 'Ada "the\\n" Great', [names["total"]])
    assert sorted(file.name for file in place.iterdir()) == ["__init__.py", "boxes.py", "detectors.py"]
    boxes = (place / "boxes.py").read_text()
    assert "# my own helper\ndef side" in boxes and "SIDES = 2" in boxes and "math" not in boxes and "checks" not in boxes
    assert "boxes = 5" not in (place / "detectors.py").read_text()  # a global that only looks like the argument
    assert "box_area: yours, from 01_boxes" in capsys.readouterr().out
    assert total(monkeypatch) == 7 and package(monkeypatch).__author__ == 'Ada "the\\n" Great'


def test_the_librarys_function_stands_in_and_says_so(notebook, capsys, monkeypatch):
    names = notebook("def box_area(boxes):\n    raise NotImplementedError", USES)
    place = write_package("mine", "Ada", [names["total"]])
    assert "box_area: the library's" in (place / "__init__.py").read_text()
    assert "coursekit.standins" in (place / "detectors.py").read_text() and total(monkeypatch) == 7


def test_the_last_cell_counts_and_another_name_for_a_function_works(notebook, monkeypatch):
    again = 'area = earlier("box_area")\n\n\ndef total(boxes):\n    return 2 * float(area(boxes).sum())'
    write_package("mine", "Ada", [notebook(AREA, USES, again)["total"]])
    assert total(monkeypatch) == 14


def test_written_again_it_follows_the_notebook_and_drops_what_is_no_longer_used(notebook, monkeypatch):
    write_package("mine", "Ada", [notebook(AREA, USES)["total"]])
    place = write_package("mine", "Eve", [notebook(AREA, "def total(boxes):\n    return 1")["total"]])
    assert sorted(file.name for file in place.glob("*.py")) == ["__init__.py", "detectors.py"] and total(monkeypatch) == 1


def test_edited_files_and_strangers_are_never_overwritten(notebook):
    names = notebook(AREA, USES)
    place = write_package("mine", "Ada", [names["total"]])
    before = (place / "detectors.py").read_text()
    (place / "boxes.py").write_text((place / "boxes.py").read_text() + "# an afterthought\n")
    with pytest.raises(FileExistsError, match="boxes.py"):
        write_package("mine", "Eve", [names["total"]])
    assert "afterthought" in (place / "boxes.py").read_text() and (place / "detectors.py").read_text() == before
    (place.parent / "other").mkdir()
    (place.parent / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes.txt"):
        write_package("other", "Ada", [names["total"]])


@pytest.mark.parametrize("name", ["my detectors", "2fast", "class", "../x", ""])
def test_a_name_that_is_none_is_refused(notebook, name):
    with pytest.raises(ValueError, match="no name of a package"):
        write_package(name, "Ada", [notebook(AREA, USES)["total"]])


def test_what_no_statement_makes_is_named(notebook):
    names = notebook(AREA, "for LIMIT in (1, 2):\n    pass\n\n\ndef total(boxes):\n    return LIMIT")
    with pytest.raises(ValueError, match="LIMIT"):
        write_package("mine", "Ada", [names["total"]])


def test_a_librarys_function_is_not_offered_as_ones_own(notebook):
    notebook(AREA, USES)
    with pytest.raises(ValueError, match="sqrt"):
        write_package("mine", "Ada", [torch.sqrt])


def test_cells_without_history_come_from_what_the_kernel_keeps_for_tracebacks(notebook, monkeypatch):
    names = notebook(AREA)
    for number, source in enumerate(("import torch\nFACTOR = 3", "def total(boxes):\n    return FACTOR * torch.ones(()).item()")):
        name = f"/tmp/ipykernel_0/{number}.py"
        monkeypatch.setitem(linecache.cache, name, (len(source), None, source.splitlines(True), name))
        exec(compile(source, name, "exec"), names)
    write_package("mine", "Ada", [names["total"]])
    assert total(monkeypatch) == 3
