"""coursekit check-in: what editors do to a notebook is told and repaired, and the repaired one is graded in full."""

import copy
import importlib
import json
import os
import random

import nbformat
import pytest

from autograder import handin
from autograder.lessons import ROOT
from coursekit import checkin, cli

LESSON = "01_boxes"
SOURCE = ROOT / "solutions" / LESSON / "boxes.py"
make_class = importlib.import_module("tests.class.make_class")  # a class is a keyword


@pytest.fixture(scope="module")
def lesson():
    return make_class.Lesson(SOURCE)


@pytest.fixture(scope="module")
def graders():
    return handin.load_lesson(SOURCE)


@pytest.fixture
def right(lesson):
    """A hand-in that is right in everything."""
    return json.loads(make_class.text_of(lesson.answered()))


def save(folder, notebook, name="boxes.ipynb"):
    (folder / name).write_text(notebook if isinstance(notebook, str) else json.dumps(notebook), "utf-8")
    return folder / name


def looked_at(folder, notebook, **options):
    return checkin.check_in(save(folder, notebook), **options)


def find(notebook, name):
    return next(c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == name)


def place(notebook, name):
    return notebook["cells"].index(find(notebook, name))


def told(report):
    return "\n".join(str(finding) for finding in report.findings)


def test_a_right_notebook_is_ready(tmp_path, right, lesson):
    report = looked_at(tmp_path, right)
    assert (report.wrong, report.repaired, report.lesson) == (0, None, LESSON)
    points = sum(lesson.points(list(lesson.exercises), written=1).values())
    assert [finding.state for finding in report.findings] == ["ok", "ok"]
    assert "answers are there, for" in told(report) and points > 0
    counts = [int(word) for word in told(report).split() if word.isdigit()]
    assert counts[-1] == counts[-2], "all points that there are"


# What editors do. Colab: no ids, its own in the metadata, format 4.0. VS Code: pasted cells without metadata and
# with new ids (microsoft/vscode-jupyter#982). JupyterLab: a pasted or split cell has a second copy of everything
# (nbgrader#1083); an answer typed into a new cell has nothing (nbgrader#424).


def colab(notebook):
    notebook["nbformat_minor"] = 0
    notebook["metadata"] |= {"colab": {"provenance": []}, "accelerator": "GPU"}
    for cell in notebook["cells"]:
        cell.pop("id")
        cell["metadata"] = {"id": "".join(random.Random(str(cell["source"])).choices("abcXYZ019-_", k=12))}
        if cell["cell_type"] == "code":
            cell["metadata"] |= {"outputId": "d3a", "colab": {"base_uri": "https://localhost:8080/"}}
            cell["metadata"]["executionInfo"] = {"status": "ok", "user": {"displayName": "Ada"}}


def vs_code(notebook):
    notebook["metadata"]["kernelspec"] = {"display_name": ".venv", "language": "python", "name": "python3"}
    chance = random.Random(0)
    for cell in notebook["cells"]:
        cell["id"] = f"{chance.randrange(16**8):08x}"
        cell["metadata"] = {"vscode": {"languageId": "python"}} if cell["cell_type"] == "code" else {}


def jupyter_paste(notebook):
    """Each check and each answer pasted below itself."""
    for cell in list(notebook["cells"]):
        if "nbgrader" in cell["metadata"]:
            at = notebook["cells"].index(cell)
            notebook["cells"].insert(at + 1, copy.deepcopy(cell) | {"id": f"{at:08x}-1111-4222-8333-{at:012x}"})


def jupyter_retyped(notebook):
    """The answers deleted, and typed again into new cells."""
    for cell in notebook["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("solution"):
            cell |= {"id": f"{notebook['cells'].index(cell):08x}", "metadata": {}}


@pytest.mark.parametrize("editor", [colab, vs_code, jupyter_paste, jupyter_retyped])
def test_what_an_editor_lost_is_told_and_the_repaired_copy_is_as_good_as_new(
    editor, tmp_path, right, graders
):
    wanted = {cell["id"]: "".join(cell["source"]) for cell in right["cells"] if "nbgrader" in cell["metadata"]}
    editor(right)
    report = looked_at(tmp_path, right)
    assert report.wrong and report.lesson == LESSON
    notebook = nbformat.reads(report.repaired, as_version=4)
    nbformat.validate(notebook)
    again = looked_at(tmp_path, report.repaired)
    assert (again.wrong, again.repaired) == (0, None), told(again)
    # the grader's own view: nothing to note, and each answer is the student's
    hand_in = handin.restore(graders, *handin.read(report.repaired.encode()))
    assert hand_in.findings == []
    found = {cell.name: cell.source for cell in hand_in.cells if cell.role in ("exercise", "written")}
    assert found == {name: wanted[name] for name in found} and len(found) > 3


def test_the_lost_cells_are_named_and_those_known_by_place_are_told_apart(tmp_path, right):
    colab(right)
    text = told(looked_at(tmp_path, right))
    assert "without the metadata by which a grader finds them: 16 cells, setup" in text and "xyxy_to_cxcywh" in text
    assert "known only by their place: 2 cells, " in text, "the two questions"


def test_outputs_and_added_cells_stay_in_the_repaired_copy(tmp_path, right):
    output = {"output_type": "stream", "name": "stdout", "text": "seen\n"}
    find(right, "box_area")["outputs"] = [output]
    added = {"cell_type": "code", "id": "mine", "metadata": {}, "source": "x = 1", "outputs": [output], "execution_count": 3}
    right["cells"].insert(4, added)
    del find(right, "test_box_area")["metadata"]["nbgrader"]
    repaired = json.loads(looked_at(tmp_path, right).repaired)
    assert find(repaired, "box_area")["outputs"] == [output]
    assert added in repaired["cells"] and find(repaired, "test_box_area")["id"] == "test_box_area"


def test_an_edited_check_is_the_lessons_own_again(tmp_path, right):
    before = find(right, "test_box_area")["source"]
    find(right, "test_box_area").update(source="passed()", outputs=[{"output_type": "stream", "name": "stdout", "text": "ok"}])
    report = looked_at(tmp_path, right)
    assert "the lesson's own, but edited: 1 cell, test_box_area" in told(report)
    cell = find(json.loads(report.repaired), "test_box_area")
    assert cell["source"] == before and cell["outputs"] == []


def test_missing_cells_are_named_and_put_back(tmp_path, right):
    for name in ("test_box_iou", "setup", "box_area"):
        right["cells"].pop(place(right, name))
    report = looked_at(tmp_path, right)
    assert "cells of the lesson are missing: setup, test_box_iou" in told(report)
    assert "cells for answers are missing: box_area" in told(report)
    repaired = json.loads(report.repaired)
    assert place(repaired, "setup") < place(repaired, "box_area") < place(repaired, "test_box_area")
    assert "NotImplementedError" in find(repaired, "box_area")["source"]


def test_of_two_different_copies_the_changed_one_counts_and_the_other_is_kept(tmp_path, right):
    mine = find(right, "box_area")["source"]
    older = copy.deepcopy(find(right, "box_area")) | {"id": "older", "source": "def box_area(boxes):\n    return 1"}
    right["cells"].insert(place(right, "box_area"), older)
    repaired = json.loads(looked_at(tmp_path, right).repaired)
    assert find(repaired, "box_area")["source"] == mine
    kept = [c for c in repaired["cells"] if "".join(c["source"]) == older["source"]]
    assert len(kept) == 1 and "nbgrader" not in kept[0]["metadata"]


def test_what_is_not_answered_is_listed_with_its_points(tmp_path, right, lesson):
    find(right, "box_iou")["source"] = make_class.find(lesson.release, "box_iou").source
    report = looked_at(tmp_path, right)
    assert report.wrong == 0 and f"not answered yet: box_iou ({lesson.points(['box_iou'])['box_iou']:.0f} points)" in told(report)


def test_a_notebook_as_it_was_released_was_not_saved(tmp_path, lesson):
    report = looked_at(tmp_path, make_class.text_of(lesson.release))
    assert report.wrong == 1 and "nothing is answered" in told(report) and "save" in told(report)


@pytest.mark.parametrize(
    "source, words",
    [
        ("def box_area(boxes)\n    return 1", "the answer box_area is not Python: line 1: expected ':'"),
        ("def area(boxes):\n    return 1", "no cell defines box_area"),
    ],
)
def test_an_answer_that_cannot_be_called_is_told(tmp_path, right, source, words):
    find(right, "box_area")["source"] = source
    report = looked_at(tmp_path, right)
    assert report.wrong == 1 and words in told(report)


def test_ipythons_own_lines_are_no_mistakes(tmp_path, right):
    find(right, "box_area")["source"] = "%matplotlib inline\n" + "".join(find(right, "box_area")["source"])
    assert looked_at(tmp_path, right).wrong == 0


def test_the_notebook_of_another_lesson_is_told_whatever_it_is_called(tmp_path, right):
    other = checkin.check_in(save(tmp_path, right, "anchors.ipynb"))
    assert other.wrong == 1 and "this is the notebook of 01_boxes" in told(other) and "for 02_anchors" in told(other)
    (tmp_path / "02_anchors").mkdir()
    by_folder = checkin.check_in(save(tmp_path / "02_anchors", right, "mine.ipynb"))
    assert "by its folder it is handed in for 02_anchors" in told(by_folder)
    assert "for 03_matching" in told(checkin.check_in(save(tmp_path, right), lesson="03_matching"))


def test_another_name_is_a_note(tmp_path, right):
    report = checkin.check_in(save(tmp_path, right, "Copy of boxes.ipynb"))
    assert report.wrong == 0 and "name it boxes.ipynb" in told(report)


def test_a_notebook_of_something_else_is_told(tmp_path):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "print(1)", "outputs": []}
    report = looked_at(tmp_path, {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    assert report.wrong == 1 and "no cell of 01_boxes is in boxes.ipynb" in told(report)


def test_a_notebook_too_large_is_repaired_by_leaving_its_outputs(tmp_path, right, monkeypatch):
    monkeypatch.setattr(checkin, "LARGE", 10**5)
    monkeypatch.setattr(checkin, "LARGEST", 10**6)
    find(right, "box_area")["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 2 * 10**6}]
    report = looked_at(tmp_path, right)
    assert report.wrong == 1 and "the file has 2 MB, graders read 1" in told(report)
    assert len(report.repaired) < 10**6 and find(json.loads(report.repaired), "box_area")["outputs"] == []


def test_an_old_format_is_repaired(tmp_path, right):
    old = nbformat.convert(nbformat.from_dict(right), 3)
    report = looked_at(tmp_path, json.dumps(old))
    assert "old format" in told(report)
    nbformat.validate(nbformat.reads(report.repaired, as_version=4))
    assert looked_at(tmp_path, report.repaired).wrong == 0


def test_the_command_writes_beside_and_over_only_when_asked(tmp_path, right, capsys):
    jupyter_paste(right)
    path = save(tmp_path, right)
    before = path.read_bytes()
    for _ in range(2):  # the second time there is such a copy already
        assert cli.main(["check-in", str(path)]) == 1
        assert f"{tmp_path / 'boxes.repaired.ipynb'} is repaired" in capsys.readouterr().out
        assert sorted(os.listdir(tmp_path)) == ["boxes.ipynb", "boxes.repaired.ipynb"]
    assert path.read_bytes() == before
    (tmp_path / "boxes.repaired.ipynb").write_text("somebody went on in it")
    assert cli.main(["check-in", str(path)]) == 1
    assert (tmp_path / "boxes.repaired.ipynb").read_text() == "somebody went on in it"
    assert (tmp_path / "boxes.repaired-2.ipynb").exists()
    assert cli.main(["check-in", str(path), "--in-place"]) == 1
    capsys.readouterr()
    assert cli.main(["check-in", str(path)]) == 0 and "Ready to be handed in." in capsys.readouterr().out


def test_json_says_the_same(tmp_path, right, capsys):
    del find(right, "box_area")["metadata"]["nbgrader"]
    assert cli.main(["check-in", str(save(tmp_path, right)), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["lesson"], found["ready"]) == (LESSON, False)
    assert found["repaired"].endswith("boxes.repaired.ipynb")
    assert {"state", "what", "todo"} == set(found["findings"][0])


@pytest.mark.parametrize(
    "content, words",
    [("", "is empty"), ("hello", "is not a notebook"), (None, "there is no")],
    ids=["empty", "text", "missing"],
)
def test_what_cannot_be_looked_at_gives_2(tmp_path, capsys, content, words):
    path = tmp_path / "boxes.ipynb"
    if content is not None:
        path.write_text(content)
    assert cli.main(["check-in", str(path)]) == 2 and words in capsys.readouterr().out
    assert cli.main(["check-in", str(path), "--json"]) == 2
    assert words in json.loads(capsys.readouterr().out)["error"]


def test_an_unknown_lesson_says_which_there_are(tmp_path, right, capsys):
    assert cli.main(["check-in", str(save(tmp_path, right)), "--lesson", "99"]) == 2
    assert "no lesson '99'; there are 01_boxes" in capsys.readouterr().out


def test_released_notebooks_may_lie_elsewhere(tmp_path, right):
    """An instructor's fork with a lesson of its own: a file, or a folder like course/."""
    path = save(tmp_path, right)
    course = ROOT / "course"
    assert checkin.check_in(path, released=course).wrong == 0
    assert checkin.check_in(path, released=course / LESSON / "boxes.ipynb").wrong == 0
    assert "no cell of any lesson" in told(checkin.check_in(path, released=course / "02_anchors"))
    (tmp_path / "none").mkdir()
    with pytest.raises(LookupError, match="no released notebook"):
        checkin.check_in(path, released=tmp_path / "none")


def test_coursekit_brings_the_notebooks_that_are_released():
    for path in sorted((ROOT / "course").glob("*/*.ipynb")):
        assert (checkin.RELEASED / f"{path.parent.name}.ipynb").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("seed", range(3))
def test_a_notebook_spoilt_anyhow_is_reported_or_unreadable(tmp_path, right, seed):
    from tests.grading.test_handin import spoil

    chance, reports = random.Random(seed), 0
    for _ in range(15):
        notebook = copy.deepcopy(right)
        for _ in range(chance.choice([1, 5, 20])):
            if notebook:
                spoil(notebook, chance)
        try:
            report = looked_at(tmp_path, notebook)
        except checkin.Unreadable:
            continue
        reports += 1
        if report.repaired:
            nbformat.validate(nbformat.reads(report.repaired, as_version=4))
            assert looked_at(tmp_path, report.repaired).repaired is None
    assert reports > 5
