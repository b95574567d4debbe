"""A lesson's text in another language: only text cells change, missing and outdated ones fall back, hand-ins are graded alike."""

import importlib
import shutil

import nbformat
import pytest
from babel.messages.pofile import read_po, write_po

from autograder.build import build
from autograder.handin import load_lesson, read, restore
from autograder.lessons import ROOT

make_class = importlib.import_module("tests.class.make_class")  # a class is a keyword
FIRST, SECOND = "# 1 · Kästen\n\nIn diesem Kurs bauen wir Objektdetektoren.", "## Was wir bauen\n\nLinks steht, was ein Detektor bekommt."
QUESTION = "### Frage: `why_iou`\n\nAuf Deutsch gefragt."


@pytest.fixture
def course(tmp_path):
    """A course of lesson 01, of which two texts and a question are in German."""
    (tmp_path / "solutions/01_boxes").mkdir(parents=True)
    shutil.copy(ROOT / "solutions/01_boxes/boxes.py", tmp_path / "solutions/01_boxes")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert build(language="de", root=tmp_path) == 0
    texts = {"# 1 · Boxes": FIRST, "## What we are going to build": SECOND, "### Question: `why_iou`": QUESTION}

    def translate(catalog):
        for message in catalog:
            for beginning, text in texts.items():
                if message.id and beginning in message.id:
                    message.string = text

    change(tmp_path, translate)
    assert build(language="de", root=tmp_path) == 0
    return tmp_path


def change(course, edit):
    """As a translator does: open the file, write, save."""
    file = course / "solutions/01_boxes/boxes.de.po"
    with open(file, "rb") as opened:
        catalog = read_po(opened)
    edit(catalog)
    with open(file, "wb") as opened:
        write_po(opened, catalog, width=0)


def cells(course, language="de"):
    folder = ROOT / "course" if language is None else course / f"course-{language}"
    return nbformat.read(folder / "01_boxes/boxes.ipynb", as_version=4).cells


def test_nothing_but_the_translated_texts_is_another(course):
    original, german = cells(course, None), cells(course)
    badge, *other = [(old, new) for old, new in zip(original, german, strict=True) if old != new]
    assert badge[1].id == "badge" and badge[1].source == badge[0].source.replace("/course/", "/course-de/")
    assert [new.source for _, new in other] == [FIRST, SECOND, QUESTION]
    for old, new in other:
        assert {**old, "source": ""} == {**new, "source": ""} and "nbgrader" not in new.metadata


def test_written_answers_and_code_are_no_messages(course):
    text = (course / "solutions/01_boxes/boxes.de.po").read_text(encoding="utf-8")
    assert "def box_iou" not in text and text.count("msgid ") - 1 == sum(
        cell.cell_type == "markdown" and "nbgrader" not in cell.metadata for cell in cells(course)[1:]
    )


def test_build_again_changes_nothing_and_check_sees_what_is_old(course, capsys):
    before = {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    assert build(language="de", root=course) == 0 and build(language="de", root=course, check=True) == 0
    assert before == {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    change(course, lambda catalog: setattr(next(m for m in catalog if m.string == SECOND), "string", "## Anders"))
    assert build(language="de", root=course, check=True) == 1
    assert "course-de/01_boxes/boxes.ipynb" in capsys.readouterr().out


def test_text_that_changed_falls_back_and_is_told_until_a_person_has_looked(course, capsys):
    source = course / "solutions/01_boxes/boxes.py"
    source.write_text(source.read_text().replace("On the left is what a detector gets.", "On the left stands what a detector gets."))
    capsys.readouterr()
    assert build(language="de", root=course) == 0
    told = capsys.readouterr().out
    assert " in de: 2 of " in told and "changed since it was translated: cell 5, '## What we are going to build'" in told
    assert build(language="de", root=course, check=True) == 0
    assert "On the left stands" in cells(course)[4].source and cells(course)[2].source == FIRST

    def look(catalog):
        [message] = [message for message in catalog if message.id and message.fuzzy]
        assert message.string == SECOND
        message.flags.discard("fuzzy")

    change(course, look)
    assert build(language="de", root=course) == 0
    assert cells(course)[4].source == SECOND and " in de: 3 of " in capsys.readouterr().out


def test_hand_in_in_another_language_is_graded_by_the_same_lesson(course):
    lesson = make_class.Lesson(ROOT / "solutions/01_boxes/boxes.py")
    answered = {cell.metadata.nbgrader.grade_id: cell for cell in lesson.answered().cells if "nbgrader" in cell.metadata}
    found = []
    for language in (None, "de"):
        notebook = nbformat.v4.new_notebook(cells=cells(course, language), metadata=lesson.release.metadata)
        for cell in notebook.cells:
            if cell.metadata.get("nbgrader", {}).get("solution"):
                cell.source = answered[cell.metadata.nbgrader.grade_id].source
        graders = load_lesson(ROOT / "solutions/01_boxes/boxes.py")
        hand_in = restore(graders, *read(make_class.text_of(notebook).encode(), "boxes.ipynb"))
        found.append(([(cell.name, cell.role, cell.source) for cell in hand_in.cells if cell.name], hand_in.findings))
    assert found[0] == found[1] and found[1][1] == []


@pytest.mark.parametrize("code", ["klingon", "../x", ""])
def test_unknown_language_is_refused(course, capsys, code):
    assert build(language=code, root=course) == 2
    assert "expected a code such as de, es or pt_BR" in capsys.readouterr().err


def test_file_that_is_none_of_gettexts_is_refused(course, capsys):
    (course / "solutions/01_boxes/boxes.de.po").write_text("Kästen")
    assert build(language="de", root=course) == 2
    assert "boxes.de.po" in (told := capsys.readouterr().err) and "expected gettext's PO format" in told


def test_nbgraders_own_release_leaves_the_file_out():
    assert '"*.po"' in (ROOT / "autograder/nbgrader_config.py").read_text()
