"""A hand-in as it is graded: the lesson's own cells as the lesson has them, the student's as they wrote them.

Nothing of a submitted notebook is trusted but the text of the cells that the student wrote: metadata, ids,
outputs, check and setup cells all come from the lesson. What had to be put right is told in `findings`.
"""

import ast
import copy
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from .build import expand, released
from .lessons import exercises_of


class Unreadable(ValueError):
    """A hand-in that cannot be read as a notebook; says what was found and what is expected."""


@dataclass
class Lesson:
    """One lesson as the grader needs it.

    `cells`: the notebook as nbgrader registers it: answers cut, hidden checks in, with checksums.
    `released`: cell id -> the text that students were given.
    """

    name: str
    topic: str
    exercises: dict
    cells: list
    released: dict
    metadata: dict

    @property
    def written(self):
        return [grade_id(cell) for cell in self.cells if role(cell) == "written"]


@dataclass
class Cell:
    """A cell of the hand-in: `role` is that of the lesson's cell that it is, or "added"."""

    role: str
    type: str
    source: str
    name: str = ""
    lesson: dict | None = None
    edited: bool = False
    missing: bool = False


@dataclass
class HandIn:
    cells: list[Cell]
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """Code to run, of exercise `name` or of an added cell (`judge` false), or an exercise to judge."""

    name: str
    source: str = ""
    judge: bool = False


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


def role(cell):
    """What a cell of a lesson is for: setup, exercise, check, written, or lesson (text, demonstration)."""
    meta = cell.metadata.get("nbgrader")
    if not meta:
        return "lesson"
    if meta["grade"]:
        return "written" if meta["solution"] else "check"
    return "exercise" if meta["solution"] else "setup"


def grade_id(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def read(path):
    """The cells of a submitted notebook.

    Raises:
        Unreadable: when the file is missing, empty, a link, no notebook, or without cells.
    """
    import nbformat

    path = Path(path)
    if path.is_symlink():
        raise Unreadable(f"{path.name} is a link, expected the notebook itself")
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("*.ipynb"))
        found = (
            f"found {', '.join(others)}: rename it and grade again" if others else "no notebook was handed in"
        )
        raise Unreadable(f"there is no {path.name}; {found}")
    text = path.read_bytes()
    if not text.strip():
        raise Unreadable(f"{path.name} is empty ({len(text)} bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ids that are missing or double: every id is given anew
            notebook = nbformat.reads(text.decode("utf-8-sig"), as_version=4)
        cells = [(str(cell["cell_type"]), _text(cell["source"]), cell) for cell in notebook["cells"]]
    except Exception as error:  # a broken file raises whatever its breakage leads to
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
        raise Unreadable(f"{path.name} is not a notebook ({reason})") from None
    if not cells:
        raise Unreadable(f"{path.name} is a notebook without cells")
    return cells


def _text(source):
    return "".join(source) if isinstance(source, list) else str(source)


def restore(lesson, submitted):
    """The hand-in with every cell of the lesson in its place.

    A cell is known by its grade id, else by its cell id, else by its text, an exercise's also by what it
    defines. Where a cell stands twice, the last one that the student changed counts.

    Args:
        submitted: what `read` gave.
    """
    template = {cell.id: cell for cell in lesson.cells}
    findings, cells = [], []
    owners = _owners(lesson, template, submitted, findings)
    counts = {}
    for number, owner in enumerate(owners):
        if owner is not None:
            counts.setdefault(owner, []).append(number)
    chosen = {
        owner: _counting(lesson.released[owner], numbers, submitted) for owner, numbers in counts.items()
    }
    for owner, numbers in counts.items():
        if len(numbers) > 1 and role(template[owner]) != "lesson":
            findings.append(
                f"the cell {grade_id(template[owner])} stands {len(numbers)} times; "
                "the last changed one counts"
            )
    for number, (owner, (kind, source, _)) in enumerate(zip(owners, submitted)):
        if owner is None:
            cells.append(Cell("added", kind if kind == "code" else "markdown", source))
            continue
        cell, edited = template[owner], not _alike(source, lesson.released[owner])
        if chosen[owner] != number:
            if edited and role(cell) in ("exercise", "written", "lesson"):
                cells.append(Cell("added", cell.cell_type, source))
        elif role(cell) in ("setup", "check"):
            if edited:
                findings.append(
                    f"the {role(cell)} cell {grade_id(cell)} was edited; the lesson's own was used"
                )
            cells.append(_own(cell))
        else:
            cells.append(Cell(role(cell), cell.cell_type, source, grade_id(cell), cell, edited))
    _put_back(lesson, cells, findings)
    return HandIn(cells, findings)


def nothing(lesson):
    """The hand-in of someone whose file cannot be read: every graded cell as released, none of it run."""
    return HandIn([_own(cell, missing=True) for cell in lesson.cells if role(cell) != "lesson"])


def _own(cell, missing=False):
    return Cell(role(cell), cell.cell_type, cell.source, grade_id(cell), cell, missing=missing)


def _owners(lesson, template, submitted, findings):
    """For each submitted cell the id of the lesson's cell that it is, or None."""
    by_grade_id = {grade_id(cell): key for key, cell in template.items() if grade_id(cell)}
    by_text = {_trimmed(text): key for key, text in reversed(lesson.released.items()) if text.strip()}
    owners, repaired = [], []
    for _, source, cell in submitted:
        meta = cell.get("metadata", {}).get("nbgrader")
        name = meta.get("grade_id") if isinstance(meta, dict) else None
        owner = by_grade_id.get(name) if isinstance(name, str) else None
        if owner is None:
            key = cell.get("id")
            owner = key if key in template else by_text.get(_trimmed(source))
            if owner is not None and grade_id(template[owner]):
                repaired.append(grade_id(template[owner]))
        owners.append(owner)
    for name in lesson.exercises:
        if by_grade_id[name] not in owners:
            defines = re.compile(rf"^(def|class)\s+{name}\b", re.MULTILINE)
            for number, (kind, source, _) in enumerate(submitted):
                if owners[number] is None and kind == "code" and defines.search(source):
                    owners[number] = by_grade_id[name]
                    repaired.append(name)
    if not any(owner is not None and grade_id(template[owner]) for owner in owners):
        findings.append(f"no cell of {lesson.topic}.ipynb is in it: is it the notebook of another lesson?")
    elif repaired:
        findings.append(
            "cells without their nbgrader metadata, known again by name or text: "
            + ", ".join(dict.fromkeys(repaired))
        )
    return owners


def _counting(given, numbers, submitted):
    """Which of several copies counts: the last that the student changed, else the last."""
    return next((n for n in reversed(numbers) if not _alike(submitted[n][1], given)), numbers[-1])


def _put_back(lesson, cells, findings):
    """Insert the graded and setup cells that are missing, each before the next one that is there."""
    place = len(cells)
    for cell in reversed(lesson.cells):
        here = next((n for n, one in enumerate(cells) if one.lesson is cell), None)
        if here is not None:
            place = here
        elif role(cell) != "lesson":
            cells.insert(place, _own(cell, missing=True))
            put_back = "; it was put back" if role(cell) in ("setup", "check") else ""
            findings.append(f"the {role(cell)} cell {grade_id(cell)} is missing{put_back}")


def _trimmed(text):
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _alike(one, other):
    return _trimmed(one) == _trimmed(other)


def plan(lesson, hand_in):
    """What grading does, in the order of the hand-in: run the student's cells, judge at the checks.

    Of the lesson's figures and demonstrations nothing is run; where a student changed one, its definitions
    are. An exercise whose check stands before it (cells were moved) is judged right after it.
    """
    cells, steps = hand_in.cells, []
    at = {}
    for number, cell in enumerate(cells):
        if cell.role == "check":
            at[cell.name.removeprefix("test_").split("__")[0]] = number
    for number, cell in enumerate(cells):
        if cell.role == "exercise" and number > at.get(cell.name, -1):
            at[cell.name] = number
    judged = {}
    for name, number in at.items():
        judged.setdefault(number, []).append(name)
    for number, cell in enumerate(cells):
        if cell.type == "code" and not cell.missing and cell.role in ("exercise", "added"):
            steps.append(Step(cell.name, cell.source))
        elif cell.role == "lesson" and cell.type == "code" and cell.edited:
            steps.append(Step("", definitions(cell.source)))
        steps += [Step(name, judge=True) for name in judged.get(number, ())]
    return steps


def definitions(source):
    """The imports, functions and classes of a cell, without what it does; nothing where it is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, kinds))


def graded_notebook(lesson, hand_in, outcomes):
    """The notebook in nbgrader's format: a check cell has its outcome as output, where nbgrader reads marks.

    Args:
        outcomes: grade id of a check cell -> None where it passed, else the message.
    """
    import nbformat

    notebook = nbformat.v4.new_notebook(metadata=copy.deepcopy(lesson.metadata))
    for number, cell in enumerate(hand_in.cells):
        make = nbformat.v4.new_code_cell if cell.type == "code" else nbformat.v4.new_markdown_cell
        made = make(cell.source, id=f"added-{number}" if cell.lesson is None else cell.lesson.id)
        if cell.lesson is not None:
            made.metadata = copy.deepcopy(cell.lesson.metadata)
        if cell.role == "check":
            made.outputs = [_output(cell.name, outcomes[cell.name])]
        notebook.cells.append(made)
    return notebook


def _output(name, message):
    import nbformat

    if message is None:
        return nbformat.v4.new_output("stream", name="stdout", text=f"{name}: passed\n")
    return nbformat.v4.new_output(
        "error", ename="CheckFailed", evalue=message, traceback=[f"Not yet: {message}"]
    )
