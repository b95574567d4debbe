"""Results -> nbgrader's gradebook, all of them in one transaction.

The rows are those that `nbgrader autograde` makes, so formgrader, marks by hand and `nbgrader
generate_feedback` go on working. nbgrader's own functions commit at every call, and look up each row by
itself; here all of a lesson is read at once, and what is new or different is written at once.
Source of the rules: nbgrader 0.9, `preprocessors/saveautogrades.py`, `api.Gradebook.add_submission`.
"""

import contextlib
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

COURSE = "object-detection"  # as in nbgrader_config.py
WAIT = 30  # seconds for another program that is writing
# Which hand-in a mark belongs to; nbgrader does not know, and asks for a new look at every regrade.
FOLDED = """CREATE TABLE IF NOT EXISTS autograder_folded
(student TEXT, lesson TEXT, key TEXT, answers TEXT, PRIMARY KEY (student, lesson))"""


@dataclass
class Mark:
    """What a graded cell of one hand-in has earned. `pending`: a person has to look."""

    score: float
    points: float
    pending: bool = False
    by_hand: bool = False


def fits(output, lessons):
    """Raise a GradingError if a lesson's cells are no longer those that people marked by hand."""
    if (Path(output) / "gradebook.db").exists():
        with _opened(output) as gradebook:
            for lesson in lessons.values():
                _obsolete(gradebook, lesson)


def fold(output, lessons, results):
    """Bring the gradebook up to date with `results`; the marks and comments of all of them.

    A score given by hand stays. It is to be looked at again when the answer it was given for has changed.

    Args:
        lessons: name -> `handin.Lesson`.
        results: as `results.load_all` gives.

    Returns:
        (student, lesson) -> (marks, comments), each by grade id.
    """
    with _opened(output) as gradebook:
        connection = gradebook.db.connection()
        gradebook.db.commit = gradebook.db.flush  # nbgrader's functions commit: not before all is there
        connection.exec_driver_sql(FOLDED)
        for lesson in lessons.values():
            _register(gradebook, lesson)
            _submit(gradebook, lesson, [result for result in results if result["lesson"] == lesson.name])
        gradebook.db.flush()
        marks = {}
        for lesson in lessons.values():
            marks.update(_marks(gradebook, lesson))
        del gradebook.db.commit
        gradebook.db.commit()
        return marks


def read(output, lessons):
    """The marks and comments that the gradebook holds now, as `fold` gives them."""
    if not (Path(output) / "gradebook.db").exists():
        return {}
    with _opened(output) as gradebook:
        marks = {}
        for lesson in lessons.values():
            marks.update(_marks(gradebook, lesson))
        return marks


def grade_cells(lesson):
    """Grade id -> points and type of each graded cell of a lesson."""
    return _cells(lesson)[0]


@contextlib.contextmanager
def _opened(output):
    """nbgrader's gradebook, ours to write to until it is closed."""
    from nbgrader.api import Gradebook
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DatabaseError

    from .grade import GradingError

    path = Path(output) / "gradebook.db"
    url, before = (
        URL.create("sqlite", database=str(path), query={"timeout": str(WAIT)}),
        os.environ.get("PATH", ""),
    )
    # nbgrader calls `alembic` by its name, which stands beside this Python, activated or not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    gradebook = None
    try:
        gradebook = Gradebook(url, COURSE)
        gradebook.db.connection().exec_driver_sql("BEGIN IMMEDIATE")
        yield gradebook
    except DatabaseError as error:
        if "not a database" in str(error) or "malformed" in str(error):
            raise GradingError(
                f"{path} is no gradebook ({error.orig}); move it away: it is made again, without marks by hand"
            ) from None
        if "locked" not in str(error):
            raise
        raise GradingError(
            f"{path} is in use by another program (formgrader?), also after {WAIT} s; close it and run the same "
            "command again: what was graded is kept in results/ and will not be graded again"
        ) from None
    finally:
        os.environ["PATH"] = before
        if gradebook is not None:
            gradebook.db.rollback()  # nothing, where all was committed
            gradebook.close()


def _cells(lesson):
    """The lesson's cells that nbgrader knows: (grade cells, solution cells, source cells), by grade id."""
    grade, solution, source = {}, {}, {}
    for cell in lesson.cells:
        meta = cell.metadata.get("nbgrader")
        if not meta:
            continue
        if meta["grade"]:
            grade[meta["grade_id"]] = {"max_score": float(meta["points"]), "cell_type": cell.cell_type}
        if meta["solution"]:
            solution[meta["grade_id"]] = {}
        source[meta["grade_id"]] = {
            "cell_type": cell.cell_type,
            "locked": meta["locked"],
            "source": cell.source,
            "checksum": meta.get("checksum"),
        }
    return grade, solution, source


def _obsolete(gradebook, lesson):
    """Rows of cells that the lesson has no more. A GradingError where a person has marked one."""
    from nbgrader.api import Comment, Grade, MissingEntry

    from .grade import GradingError

    try:
        notebook = gradebook.find_notebook(lesson.topic, lesson.name)
    except MissingEntry:
        return []
    grade, solution, source = _cells(lesson)
    gone = [cell for cell in notebook.grade_cells if cell.name not in grade]
    gone += [cell for cell in notebook.solution_cells if cell.name not in solution]
    keys = [cell.id for cell in gone]
    grades = gradebook.db.query(Grade).filter(Grade.cell_id.in_(keys)).all()
    comments = gradebook.db.query(Comment).filter(Comment.cell_id.in_(keys)).all()
    by_hand = {row.cell_id for row in grades if row.manual_score is not None or row.extra_credit is not None}
    by_hand |= {row.cell_id for row in comments if row.manual_comment}
    if by_hand:
        names = sorted({cell.name for cell in gone if cell.id in by_hand})
        raise GradingError(
            f"{lesson.name} has no cell {', '.join(names)} any more, which a person has marked; put it back, grade "
            f"into a new --output, or take the lesson out of the gradebook: nbgrader db assignment remove {lesson.name}"
        )
    return [*grades, *comments, *gone, *(cell for cell in notebook.source_cells if cell.name not in source)]


def _register(gradebook, lesson):
    """Tell the gradebook the lesson's cells and points, as `nbgrader generate_assignment` does."""
    for row in _obsolete(gradebook, lesson):
        gradebook.db.delete(row)
    gradebook.db.flush()
    place = lesson.topic, lesson.name
    gradebook.update_or_create_assignment(lesson.name)
    gradebook.update_or_create_notebook(*place, kernelspec=json.dumps(lesson.metadata.get("kernelspec", {})))
    grade, solution, source = _cells(lesson)
    for known, update in (
        (grade, gradebook.update_or_create_grade_cell),
        (solution, gradebook.update_or_create_solution_cell),
        (source, gradebook.update_or_create_source_cell),
    ):
        for name, about in known.items():
            update(name, *place, **about)
    gradebook.db.flush()
    gradebook.db.expire_all()  # what was read before a cell was added or removed


def _submit(gradebook, lesson, results):
    """Rows of one lesson's results: add what is missing, update what differs."""
    from nbgrader.api import (
        Comment,
        Grade,
        Student,
        SubmittedAssignment,
        SubmittedNotebook,
        new_uuid,
    )
    from nbgrader.utils import parse_utc
    from sqlalchemy import insert, select, text, update

    run = gradebook.db.execute
    notebook = gradebook.find_notebook(lesson.topic, lesson.name)
    grade_cells = {cell.name: cell.id for cell in notebook.grade_cells}
    solution_cells = {cell.name: cell.id for cell in notebook.solution_cells}
    students = set(run(select(Student.id)).scalars())
    submissions = {
        student: (submission, key)
        for submission, student, key in run(
            select(SubmittedAssignment.id, SubmittedAssignment.student_id, SubmittedNotebook.id)
            .join(SubmittedNotebook, SubmittedNotebook.assignment_id == SubmittedAssignment.id)
            .where(SubmittedNotebook.notebook_id == notebook.id)
        )
    }
    grades = _rows(run, Grade, notebook, Grade.id, Grade.auto_score, Grade.manual_score)
    comments = _rows(run, Comment, notebook, Comment.id, Comment.auto_comment)
    found = run(
        text("SELECT student, key, answers FROM autograder_folded WHERE lesson = :lesson"),
        {"lesson": lesson.name},
    )
    folded = {student: (key, json.loads(answers)) for student, key, answers in found}
    new = {kind: [] for kind in (Student, SubmittedAssignment, SubmittedNotebook, Grade, Comment)}
    changed = {kind: [] for kind in (SubmittedAssignment, Grade, Comment)}
    remember = []
    for result in results:
        student = result["student"]
        before, answers_before = folded.get(student, (None, {}))
        if student in submissions and before == result["key"]:
            continue
        remember.append(
            {
                "student": student,
                "lesson": lesson.name,
                "key": result["key"],
                "answers": json.dumps(result["answers"]),
            }
        )
        when = {}
        with contextlib.suppress(ValueError, OverflowError, TypeError):  # none, or not a time
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                when = {"timestamp": parse_utc(result["timestamp"])} if result["timestamp"] else {}
        if student not in students:
            students.add(student)
            new[Student].append({"id": student})
        if student not in submissions:
            submissions[student] = new_uuid(), new_uuid()
            submission, key = submissions[student]
            about = {"id": submission, "assignment_id": notebook.assignment_id, "student_id": student}
            new[SubmittedAssignment].append({**about, "timestamp": when.get("timestamp")})
            new[SubmittedNotebook].append(
                {"id": key, "assignment_id": submission, "notebook_id": notebook.id}
            )
        elif when:
            changed[SubmittedAssignment].append({"id": submissions[student][0], **when})
        key = submissions[student][1]
        for name, cell in grade_cells.items():
            score, (row, old, manual) = (
                result["scores"].get(name),
                grades.get((key, cell), (None, None, None)),
            )
            same_answer = (
                result["answers"].get(name) == answers_before.get(name, ...)
                if score is None
                else score == old
            )
            review = score is None if manual is None else not same_answer
            about = {"auto_score": score}
            if row is None:
                new[Grade].append(
                    {"notebook_id": key, "cell_id": cell, "needs_manual_grade": score is None, **about}
                )
            elif manual is None or review:
                changed[Grade].append({"id": row, "needs_manual_grade": review, **about})
            else:  # looked at already, and nothing changed since
                changed[Grade].append({"id": row, **about})
        for name, cell in solution_cells.items():
            said, (row, _) = {"auto_comment": None}, comments.get((key, cell), (None, None))
            if result["answers"].get(name) is None:
                said["auto_comment"] = "No response."
            if row is None:
                new[Comment].append({"notebook_id": key, "cell_id": cell, **said})
            else:
                changed[Comment].append({"id": row, **said})
    for kind, rows in new.items():
        if rows:
            run(insert(kind), rows)
    for kind, rows in changed.items():
        for keys in {tuple(row) for row in rows}:  # one statement for rows with the same columns
            run(update(kind), [row for row in rows if tuple(row) == keys])
    if remember:
        run(
            text("INSERT OR REPLACE INTO autograder_folded VALUES (:student, :lesson, :key, :answers)"),
            remember,
        )


def _rows(run, kind, notebook, *columns):
    """(submitted notebook, cell) -> the columns, of every grade or comment of a notebook."""
    from nbgrader.api import SubmittedNotebook
    from sqlalchemy import select

    query = select(kind.notebook_id, kind.cell_id, *columns).join(
        SubmittedNotebook, SubmittedNotebook.id == kind.notebook_id
    )
    found = run(query.where(SubmittedNotebook.notebook_id == notebook.id))
    return {(key, cell): tuple(values) for key, cell, *values in found}


def _marks(gradebook, lesson):
    """(student, lesson) -> (grade id -> Mark, grade id -> comment)."""
    from nbgrader.api import (
        Comment,
        Grade,
        GradeCell,
        MissingEntry,
        SolutionCell,
        SubmittedAssignment,
        SubmittedNotebook,
    )
    from sqlalchemy import select

    try:
        notebook = gradebook.find_notebook(lesson.topic, lesson.name)
    except MissingEntry:
        return {}
    marks = {}
    for kind, cells, columns in (
        (Grade, GradeCell, (Grade.score, GradeCell.max_score, Grade.needs_manual_grade, Grade.manual_score)),
        (Comment, SolutionCell, (Comment.comment,)),
    ):
        query = (
            select(SubmittedAssignment.student_id, cells.name, *columns)
            .select_from(kind)
            .join(SubmittedNotebook, SubmittedNotebook.id == kind.notebook_id)
            .join(SubmittedAssignment, SubmittedAssignment.id == SubmittedNotebook.assignment_id)
            .join(cells, cells.id == kind.cell_id)
            .where(SubmittedNotebook.notebook_id == notebook.id)
        )
        for student, name, *values in gradebook.db.execute(query):
            given, comments = marks.setdefault((student, lesson.name), ({}, {}))
            if kind is Comment:
                comments[name] = values[0] or ""
            else:
                score, points, waits, manual = values
                given[name] = Mark(score, points, waits, manual is not None)
    return marks
