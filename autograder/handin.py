"""A hand-in as it is graded: the lesson's own cells as the lesson has them, the student's as they wrote them.

Reading and restoring a notebook needs nothing of the grader and lies in `coursekit.handin`; here is what only the
grader knows, the lesson with its hidden checks, and what it writes.
"""

import contextlib
import json
import stat
from pathlib import Path

from coursekit.handin import (  # noqa: F401: the grader's other modules find them here
    LARGE,
    LARGEST,
    Cell,
    HandIn,
    Lesson,
    Unreadable,
    fetch,
    grade_id,
    nothing,
    read,
    restore,
    role,
)

from .build import expand, released
from .lessons import exercises_of


def load_lesson(path):
    """The lesson with the source `solutions/NN_topic/topic.py`."""
    from nbgrader.converters.generate_assignment import GenerateAssignment
    from nbgrader.preprocessors import SaveCells

    notebook = expand(path)
    released_cells = {cell.id: cell.source for cell in released(notebook).cells}
    steps, resources = GenerateAssignment.preprocessors.default_args[0], {}
    for step in steps[: steps.index(SaveCells)]:
        notebook, resources = step()(notebook, resources)
    exercises = exercises_of(path)
    return Lesson(
        path.parent.name, path.stem, exercises, notebook.cells, released_cells, dict(notebook.metadata)
    )


def files_of(*places):
    """(device, inode) of every file in the places, which are files and folders."""
    found = set()
    for place in map(Path, places):
        for path in [place, *place.rglob("*")] if place.is_dir() else [place]:
            with contextlib.suppress(OSError):
                about = path.lstat()
                if stat.S_ISREG(about.st_mode):
                    found.add((about.st_dev, about.st_ino))
    return frozenset(found)


def graded_notebook(lesson, hand_in, outcomes):
    """The notebook's text in nbgrader's format: a check cell's outcome is its output, where nbgrader reads marks.

    Args:
        outcomes: grade id of a check cell -> None where it passed, else the message; of detections the points, if any.
    """
    cells = []
    for number, cell in enumerate(hand_in.cells):
        made = {"cell_type": cell.type, "id": f"added-{number}", "metadata": {}, "source": cell.source}
        if cell.lesson is not None:
            made.update(id=cell.lesson.id, metadata=cell.lesson.metadata)
        if cell.type == "code":
            outputs = [_output(cell.name, outcomes[cell.name])] if cell.role == "check" else []
            made.update(execution_count=None, outputs=outputs)
        cells.append(made)
    notebook = {"cells": cells, "metadata": lesson.metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def _output(name, message):
    if message is None:
        return {"output_type": "stream", "name": "stdout", "text": f"{name}: passed\n"}
    if not isinstance(message, str):  # points: nbgrader's partial credit
        data = {"text/plain": f"{message:g}"}
        return {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data}
    return {
        "output_type": "error",
        "ename": "CheckFailed",
        "evalue": message,
        "traceback": [f"Not yet: {message}"],
    }
