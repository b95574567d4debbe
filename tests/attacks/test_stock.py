"""The same files in stock `nbgrader autograde`: proof that these attacks work where student code and checks share a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autograder.build import expand

from ..grading.conftest import hand_in, make_class
from .conftest import FAMILIES
from .course import LESSON, POINTS

WORKS = ["input transformer", "syntax tree transformer"]


@pytest.mark.slow
def test_stock_nbgrader_gives_full_marks_for_blank_hand_ins(tmp_path):
    pytest.importorskip("ipykernel", reason="stock nbgrader runs a Jupyter kernel, which is not installed")
    source = tmp_path / "solutions" / "01_small" / "small.py"
    source.parent.mkdir(parents=True)
    source.write_text(LESSON.lstrip(), encoding="utf-8")
    lesson = make_class.Lesson(source)
    notebook = tmp_path / "source" / "01_small" / "small.ipynb"
    notebook.parent.mkdir(parents=True)
    notebook.write_text(make_class.text_of(expand(source)), encoding="utf-8")
    attacks = [attack for attack in FAMILIES["cheats"] if attack.name in WORKS]
    for attack in attacks:
        hand_in(tmp_path, attack.student, attack.notebook(lesson))
    hand_in(tmp_path, "blank", lesson.release)
    for step in ("generate_assignment", "autograde"):
        _nbgrader(tmp_path, step)
    scores = _scores(tmp_path)
    full = sum(POINTS.values())
    assert scores.pop("blank") == 0
    assert scores == {attack.student: full for attack in attacks}


def _nbgrader(folder, step):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [
        sys.executable,
        "-m",
        "nbgrader",
        step,
        "01_small",
        f"--course-dir={folder}",
        "--CourseDirectory.course_id=x",
    ]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _scores(folder):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "x") as gradebook:
        return {one.student.id: one.score for one in gradebook.assignment_submissions("01_small")}
