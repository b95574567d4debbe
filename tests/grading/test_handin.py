"""A submitted file is read and put right whatever it is: cells and notes, or `Unreadable` with the reason."""

import copy
import json
import os
import random
import socket
import time

import nbformat
import pytest

from autograder import handin, judge

from .conftest import changed, make_class

AWKWARD = [
    None,
    True,
    0,
    -1,
    1e400,
    2**70,
    "",
    "x",
    "\ud800",
    "\0",
    "\u202e",
    "é" * 200,
    [],
    [[]],
    [None, 3],
    {},
    {"a": {}},
]


@pytest.fixture(scope="module")
def lesson(course):
    return handin.load_lesson(course / "solutions" / "01_small" / "small.py")


def restored(lesson, content):
    return handin.restore(lesson, *handin.read(content if isinstance(content, bytes) else content.encode()))


def spoil(notebook, chance):
    """One random change somewhere in the notebook: a value replaced, removed, doubled, or another key."""
    value, path = notebook, []
    while isinstance(value, (dict, list)) and value and (chance.random() < 0.85 or not path):
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        path.append((value, key))
        value = value[key]
    holder, key = path[-1]
    kind, awkward = chance.randrange(4), copy.deepcopy(chance.choice(AWKWARD))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(chance.randrange(len(holder) + 1), copy.deepcopy(value))
    elif kind == 2 and isinstance(holder, dict):
        holder[chance.choice(["cells", "source", "metadata", "nbgrader", "id", "cell_type"])] = awkward
    else:
        holder[key] = awkward


@pytest.mark.parametrize("seed", range(8))
def test_spoilt_notebooks_give_cells_or_unreadable_and_nothing_else(lesson, small, seed):
    chance, read = random.Random(seed), 0
    right = json.loads(make_class.text_of(changed(small)))
    for _ in range(100):
        notebook = copy.deepcopy(right)
        for _ in range(chance.choice([1, 2, 5, 20])):
            if notebook:
                spoil(notebook, chance)
        try:
            hand_in = restored(lesson, json.dumps(notebook))
        except handin.Unreadable as error:
            assert "the notebook is" in str(error) or "the notebook has" in str(error)
            continue
        read += 1
        assert {cell.name for cell in hand_in.cells} >= {*lesson.exercises, "setup", "test_box_iou", "why"}
        judge.plan(lesson, hand_in)
        text = handin.graded_notebook(
            lesson, hand_in, dict.fromkeys(["test_box_area", "test_box_iou", "test_box_iou__empty"])
        )
        nbformat.validate(nbformat.reads(text, as_version=4))
        assert not any("\n" in note or len(note) > 600 for note in hand_in.findings)
    assert read > 30


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_bytes_give_cells_or_unreadable_and_nothing_else(lesson, small, seed):
    chance, right = random.Random(seed), make_class.text_of(changed(small)).encode()
    outcomes = set()
    for _ in range(100):
        content = bytearray(right)
        for _ in range(chance.choice([1, 3, 30])):
            place = chance.randrange(len(content))
            content[place : place + chance.randrange(3)] = chance.choice(
                [b"", b"\xff", b"\0", b'"', b"{", b"\\ud800", b"9" * 5000]
            )
        content = bytes(content[: chance.choice([None, None, len(content) // 2])])
        try:
            outcomes.add(len(restored(lesson, content).cells) > 0)
        except handin.Unreadable:
            outcomes.add("unreadable")
    assert outcomes == {True, "unreadable"}


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is empty (0 bytes)"),
        (b" \n", "is empty (2 bytes)"),
        (b"[]", "a JSON list, expected an object with cells"),
        (b"{" * 10, "is not a notebook (JSONDecodeError"),
        (b"[" * 1_000_000, "is not a notebook (RecursionError"),
        (b'{"a":' * 1_000_000, "is not a notebook (RecursionError"),
        (b'{"cells": [[]]}', "a notebook without cells"),
        (b'{"cells": {"cell_type": "code"}}', "a notebook without cells"),
        (b'{"worksheets": [{"cells": 3}, 4]}', "a notebook without cells"),
        (b'{"cells": [' + b"{}," * 5000 + b"{}]}", "has 5001 cells, at most 2000"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_reason_says_what_was_found(content, reason):
    with pytest.raises(handin.Unreadable) as caught:
        handin.read(content, "small.ipynb")
    assert reason in str(caught.value) and "small.ipynb" in str(caught.value)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="the system does not tell a process's memory"
)
def test_json_that_would_fill_the_memory_is_refused():
    content = b"[" + b"[]," * 5_000_000 + b"0]"  # 15 MB, 400 MB as lists
    content = content[:-1] + b"," + content + b"]"
    with pytest.raises(handin.Unreadable, match="MemoryError|a JSON list"):
        handin.read(content)


def test_large_outputs_are_left_behind_quickly(lesson, small):
    def pictures(notebook):
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": "A" * 10**7})]

    content = make_class.text_of(changed(small, pictures)).encode()
    assert 60e6 < len(content) < handin.LARGEST
    started = time.process_time()
    hand_in = restored(lesson, content)
    assert time.process_time() - started < 2
    assert hand_in.findings == [f"the file has {len(content) / 1e6:.0f} MB; its outputs were not read"]
    text = handin.graded_notebook(
        lesson, hand_in, dict.fromkeys(["test_box_area", "test_box_iou", "test_box_iou__empty"])
    )
    assert len(text) < 100_000


def test_honest_notebook_has_no_notes_and_all_cells(lesson, small):
    hand_in = restored(lesson, make_class.text_of(changed(small)))
    assert hand_in.findings == [] and len(hand_in.cells) == len(lesson.cells)


def written_as(encoding):
    return lambda notebook: json.dumps(notebook, ensure_ascii=False).encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_of_json_are_read(lesson, small, encoding):
    assert restored(lesson, written_as(encoding)(changed(small))).findings == []


def test_wrong_bytes_in_a_comment_cost_nothing_but_a_note(lesson, small):
    content = make_class.text_of(changed(small, box_area="# naïve\ndef box_area(boxes): return 1")).encode()
    hand_in = restored(lesson, content.replace("ï".encode(), b"\xef"))
    assert "not valid UTF-8" in hand_in.findings[0]


def foreign(notebook):
    for name in ("test_nms", "nms"):
        cell = nbformat.v4.new_code_cell("passed()", metadata={"nbgrader": {"grade_id": name}})
        notebook.cells.append(cell)


def check_first(notebook):
    cell = make_class.find(notebook, "test_box_area")
    notebook.cells.remove(cell)
    notebook.cells.insert(0, cell)


def kernel_for_r(notebook):
    notebook.metadata = {"kernelspec": {"name": "ir", "language": "R", "display_name": "R"}}


def same_ids(notebook):
    for cell in notebook.cells:
        cell.id = "one"


def junk(notebook):
    notebook.cells[2:2] = [3, None, {"cell_type": []}]


@pytest.mark.parametrize(
    "change, note",
    [
        (check_first, "cells that stand in another place than in the lesson: test_box_area"),
        (foreign, "cells of another notebook, taken as the student's own: test_nms, nms"),
        (kernel_for_r, "the notebook was saved with a kernel for R; it was graded as Python"),
        (same_ids, "1 cell ids stand more than once, such as one"),
        (junk, "3 of 12 cells are no notebook cells; left out"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_odd_is_noted_and_all_answers_are_there(lesson, small, change, note):
    hand_in = restored(lesson, make_class.text_of(changed(small, change)))
    assert hand_in.findings == [note]
    sources = {cell.name: cell.source for cell in hand_in.cells if cell.role == "exercise"}
    assert sources == {name: exercise.reference for name, exercise in small.exercises.items()}


def test_format_3_is_converted(lesson, small):
    hand_in = restored(lesson, json.dumps(nbformat.convert(small.answered(), 3)))
    assert any("old format" in note for note in hand_in.findings)
    assert all(cell.edited for cell in hand_in.cells if cell.role == "exercise")


def test_edits_are_measured_against_what_students_were_given(lesson, small):
    """A release lacks the hidden checks of the source; that is no edit, one more space at a line's end neither."""

    def spaces(notebook):
        for cell in notebook.cells:
            cell.source += "  \n\n"

    assert restored(lesson, make_class.text_of(small.release)).findings == []
    assert restored(lesson, make_class.text_of(changed(small, spaces))).findings == []


# The file itself


def test_only_a_regular_file_is_read(tmp_path, small):
    text = make_class.text_of(small.release).encode()
    (tmp_path / "real.ipynb").write_bytes(text)
    assert handin.fetch(tmp_path / "real.ipynb") == text
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "real.ipynb")
    (tmp_path / "folder.ipynb").mkdir()
    os.mkfifo(tmp_path / "pipe.ipynb")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s.ipynb"))
    for name, reason in [
        ("link", "is a link"),
        ("folder", "no regular file"),
        ("pipe", "no regular file"),
        ("s", "cannot be opened"),
        ("none", "no notebook was handed in|found folder.ipynb, link.ipynb, pipe.ipynb: rename it"),
    ]:
        started = time.monotonic()
        with pytest.raises(handin.Unreadable, match=reason):
            handin.fetch(tmp_path / f"{name}.ipynb")
        assert time.monotonic() - started < 1, name
    server.close()


def test_hard_link_to_a_file_of_the_course_is_refused(course, tmp_path):
    source = course / "solutions" / "01_small" / "small.py"
    os.link(source, tmp_path / "small.ipynb")
    with pytest.raises(handin.Unreadable, match="a file of the course under another name"):
        handin.fetch(tmp_path / "small.ipynb", handin.files_of(course / "solutions"))
    os.link(tmp_path / "small.ipynb", tmp_path / "again.ipynb")
    assert handin.fetch(tmp_path / "again.ipynb") == source.read_bytes()  # a second name alone does no harm


def test_too_large_a_file_is_not_read(tmp_path):
    with open(tmp_path / "large.ipynb", "wb") as file:
        file.truncate(10**12)  # a hole: a terabyte that takes no room
    with pytest.raises(handin.Unreadable, match="has 1000000 MB, at most 100 MB are read: clear its outputs"):
        handin.fetch(tmp_path / "large.ipynb")
