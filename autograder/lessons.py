"""Lessons read as files: one source `solutions/NN_topic/topic.py` gives cells, exercises and their checks."""

import ast
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
HEADER = re.compile(r"^# %% .*\bdetections=", re.MULTILINE)  # of a lesson for which a file of detections is handed in


class LessonError(ValueError):
    """A lesson source that cannot be built; says which file and cell, and what to write."""


@dataclass(frozen=True)
class Check:
    """One graded check cell: `NAME` or `NAME__PART`."""

    grade_id: str
    points: int
    source: str

    @property
    def visible(self):
        """The cell as the student has it."""
        kept, hidden = [], False
        for line in self.source.split("\n"):
            hidden = hidden or BEGIN_HIDDEN in line
            if not hidden:
                kept.append(line)
            hidden = hidden and END_HIDDEN not in line
        return "\n".join(kept)

    def statements(self):
        """`(statement, is_hidden)` of every top-level statement, in order."""
        lines, hidden, where = self.source.split("\n"), False, []
        for line in lines:
            hidden = hidden or BEGIN_HIDDEN in line
            where.append(hidden)
            hidden = hidden and END_HIDDEN not in line
        return [(node, where[node.lineno - 1]) for node in ast.parse(self.source).body]


@dataclass(eq=False)
class Exercise:
    """One exercise: the source of its answer, of the lesson's setup, of its checks and of the exercises before it."""

    name: str
    lesson: str
    reference: str
    setup: str = ""
    checks: list[Check] = field(default_factory=list)
    siblings: dict[str, str] = field(default_factory=dict)

    @property
    def points(self):
        return sum(check.points for check in self.checks)


def sources(root=ROOT):
    """The lesson sources, in order: `solutions/NN_topic/topic.py`."""
    found = sorted((Path(root) / "solutions").glob("[0-9][0-9]_*/"))
    return [folder / f"{folder.name[3:]}.py" for folder in found if (folder / f"{folder.name[3:]}.py").exists()]


def read_cells(path):
    """The cells of a lesson source, with the short headers expanded to nbgrader's metadata (DESIGN: one source)."""
    import jupytext

    notebook = jupytext.read(path, fmt="py:percent")
    ids = {}
    for number, cell in enumerate(notebook.cells, 1):
        _expand(cell, f"{path.parent.name}/{path.name}, cell {number}", ids)
    _told(notebook.cells, path)
    return notebook.cells


def _expand(cell, where, ids):
    """Turn `setup`, `exercise`, `check`, `written`, `detections` (and `part`, `points`) into nbgrader's metadata, in place."""
    meta = cell.metadata
    for key in ("cell_marker", "lines_to_next_cell", "lines_to_end_of_cell_marker"):  # jupytext's notes on layout
        meta.pop(key, None)
    kinds = [kind for kind in ("setup", "exercise", "check", "written", "detections") if kind in meta]
    if len(kinds) > 1:
        raise LessonError(f"{where}: {' and '.join(kinds)} in one header; a cell has one role")
    name = str(meta.pop(kinds[0])) if kinds else ""
    part, points = meta.pop("part", None), meta.pop("points", None)
    if points is not None and kinds not in (["check"], ["written"], ["detections"]):
        raise LessonError(f"{where}: points={points} on a cell that is neither a check nor written nor of detections")
    if kinds:
        kind = kinds[0]
        grade_id = {"setup": "setup", "check": f"test_{name}", "detections": f"test_{name}"}.get(kind, name)
        grade_id += f"__{part}" if part else ""
        if kind == "setup" and "setup" in ids:
            grade_id = f"setup_{1 + sum(one.startswith('setup') for one in ids)}"
        if not re.fullmatch(r"\w+", grade_id):
            raise LessonError(f"{where}: {grade_id!r} is no name: letters, digits and underscores")
        if grade_id in ids:
            raise LessonError(f"{where}: a second cell {grade_id!r}; the first is {ids[grade_id]}")
        graded = kind in ("check", "written", "detections")
        if graded and not (isinstance(points, int) and points > 0):
            raise LessonError(f"{where}: {grade_id} needs points=N with N a whole number above 0")
        ids[grade_id] = where
        meta["nbgrader"] = {
            "grade": graded,
            "grade_id": grade_id,
            "locked": kind in ("setup", "check", "detections"),
            "schema_version": 3,
            "solution": kind in ("exercise", "written"),
            "task": False,
        }
        if graded:
            meta["nbgrader"]["points"] = points
        if kind == "check":
            cell.source = f'check("{name}", {name})\n{cell.source.strip()}\npassed()'
            _balanced(cell.source, where)
        if kind == "detections":
            zero, full = meta.pop("zero", None), meta.pop("full", None)
            known = all(isinstance(ap, float) and round(ap, 2) == ap for ap in (zero, full))
            if cell.source.strip() or not known or not 0 <= zero < full <= 1:
                raise LessonError(f"{where}: {grade_id} needs zero=0.10 full=0.45, such AP of two decimals, and no body")
            meta.update(detections={"zero": zero, "full": full}, tags=["nbval-ignore-output"])
            cell.source = f"from coursekit.challenge import look\n\nlook(points={points}, zero={zero:.2f}, full={full:.2f})"
        if kind == "written" and cell.cell_type == "code":
            text = re.fullmatch(r'r?"""\n?(.*?)\n?"""', cell.source.strip(), re.DOTALL)
            if not text:
                raise LessonError(f'{where}: a written answer stands between r""" and """')
            cell.cell_type, cell.source = "markdown", text[1]
            for key in ("outputs", "execution_count"):
                cell.pop(key, None)


def _told(cells, path):
    """Raise unless the lesson's text names both ends of its file of detections, as students read them there."""
    ramps = [cell.metadata["detections"] for cell in cells if "detections" in cell.metadata]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    missing = [f"{ap:.2f}" for ramp in ramps for ap in ramp.values() if f"{ap:.2f}" not in text]
    if missing or len(ramps) > 1:
        what = f"no text says {' and '.join(missing)}" if missing else f"{len(ramps)} cells of detections, one file is handed in"
        raise LessonError(f"{path.parent.name}/{path.name}: {what}; expected a text with both AP of the detections' cell")


def _balanced(source, where):
    if source.count(BEGIN_HIDDEN) != source.count(END_HIDDEN) or source.count(BEGIN_HIDDEN) > 1:
        raise LessonError(f"{where}: a check has one hidden region, from {BEGIN_HIDDEN!r} to {END_HIDDEN!r}, or none")


def exercises_of(path):
    """The exercises of one lesson source: name -> Exercise."""
    found, checks, setup = {}, {}, []
    for cell in read_cells(path):
        meta = cell.metadata.get("nbgrader")
        if meta is None or cell.cell_type != "code" or "detections" in cell.metadata:
            continue
        grade_id = meta["grade_id"]
        if meta["grade"]:
            name = grade_id.removeprefix("test_").split("__")[0]
            checks.setdefault(name, []).append(Check(grade_id, meta["points"], cell.source))
        elif meta["solution"]:
            found[grade_id] = Exercise(grade_id, path.parent.name, cell.source)
        else:
            setup.append(cell.source)
    for name, parts in checks.items():
        if name not in found:
            raise LessonError(f"{path}: test_{name} checks an exercise that the lesson does not have")
        found[name].checks = parts
    before = {}
    for exercise in found.values():
        exercise.setup = "\n".join(setup)
        exercise.siblings = dict(before)
        before[exercise.name] = exercise.reference
        if not exercise.checks:
            raise LessonError(f"{path}: exercise {exercise.name} has no check cell test_{exercise.name}")
    return found


@functools.cache
def all_exercises(root=ROOT):
    """Every exercise of the course: name -> Exercise, in the order of the lessons."""
    found = {}
    for path in sources(root):
        for name, exercise in exercises_of(path).items():
            if name in found:
                raise LessonError(f"exercise {name} stands in {found[name].lesson} and in {exercise.lesson}")
            found[name] = exercise
    return found
