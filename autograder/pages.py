"""What people read of a grading run: a feedback page for each hand-in, `marks.csv`, the instructor's report.

Marks come from nbgrader's gradebook, so those given by hand count; the words come from `results/`. Of hidden
checks a feedback page says only whether they passed.
"""

import collections
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

FOLDER = Path(__file__).parent


@dataclass
class Item:
    """An exercise or a written answer of one hand-in, with its mark. `pending`: nobody has marked it yet."""

    name: str
    score: float
    points: float
    pending: bool = False
    by_hand: bool = False
    comment: str = ""
    exercise: dict | None = None
    mistake: dict | None = None
    has_hidden: bool = False
    parts: list = ()  # of an exercise with several check cells: (name, passed)

    @property
    def state(self):
        if self.pending:
            return "waits for a mark"
        if self.by_hand:
            return "marked by hand"
        if self.exercise is None and not self.score:
            return "no answer"
        return "passed" if self.score >= self.points else "partly passed" if self.score else "not passed"


@dataclass
class Marked:
    """One hand-in with its marks."""

    student: str
    lesson: str
    topic: str
    items: list[Item]
    findings: list[str]
    trouble: str | None
    seconds: float

    @property
    def score(self):
        return sum(item.score for item in self.items)

    @property
    def points(self):
        return sum(item.points for item in self.items)

    @property
    def pending(self):
        return sum(item.points for item in self.items if item.pending)

    @property
    def status(self):
        return "not graded" if self.trouble else "waits for marks by hand" if self.pending else "marked"

    @property
    def notes(self):
        return ([self.trouble] if self.trouble else []) + self.findings

    @property
    def page(self):
        return f"feedback/{self.student}/{self.lesson}/{self.topic}.html"


def write(output, gradebook, lessons, left_out=()):
    """Write feedback pages, `marks.csv` and `report.html` of all results in `output`; the path of the report.

    Args:
        lessons: name -> `handin.Lesson`.
        left_out: notes on what was not graded.
    """
    marked, left_out = [], list(left_out)
    for path in sorted((output / "results").glob("*/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        lesson = lessons.get(result["lesson"])
        if lesson is None or result["exercises"].keys() != lesson.exercises.keys():
            left_out.append(
                f"{result['student']}/{result['lesson']}: left out, graded with other exercises than now"
            )
        else:
            marked.append(_marked(result, gradebook, lesson))
    templates = _templates()
    for one in marked:
        write_text(output / one.page, templates.get_template("feedback.html").render(one=one))
    write_marks(output / "marks.csv", marked, lessons)
    report = output / "report.html"
    write_text(report, templates.get_template("report.html").render(**_report(marked, lessons, left_out)))
    return report


def _templates():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["number"] = lambda number: f"{number:g}"
    templates.filters["link"] = quote
    return templates


def write_text(path, text):
    """Write a file whole or not at all, with the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    part.replace(path)


def _marked(result, gradebook, lesson):
    from coursekit.checks import known_mistakes

    notebook = gradebook.find_submission_notebook(lesson.topic, lesson.name, result["student"])
    grades = {grade.name: grade for grade in notebook.grades}
    comments = {comment.name: comment.comment or "" for comment in notebook.comments}
    items = []
    for name, exercise in lesson.exercises.items():
        verdict = result["exercises"][name]
        item = _item(name, [grades[check.grade_id] for check in exercise.checks], comments)
        item.exercise = verdict
        item.mistake = next(
            (one for one in known_mistakes().get(name, ()) if one["name"] == verdict["mistake"]), None
        )
        item.has_hidden = any(hidden for check in exercise.checks for _, hidden in check.statements())
        if len(exercise.checks) > 1 and verdict["parts"]:
            item.parts = [
                (check.grade_id, verdict["parts"][check.grade_id] is None) for check in exercise.checks
            ]
        items.append(item)
    items += [_item(name, [grades[name]], comments) for name in lesson.written]
    return Marked(
        result["student"],
        lesson.name,
        lesson.topic,
        items,
        result["findings"],
        result["trouble"],
        result["seconds"],
    )


def _item(name, grades, comments):
    return Item(
        name,
        score=sum(grade.score for grade in grades),
        points=sum(grade.max_score for grade in grades),
        pending=any(grade.needs_manual_grade and grade.manual_score is None for grade in grades),
        by_hand=any(grade.manual_score is not None for grade in grades),
        comment=comments.get(name, ""),
    )


def write_marks(path, marked, lessons):
    """One line a hand-in: student, lesson, status, score, points, points that wait, each exercise, notes.

    Points wait where a person marks. An exercise's column is empty where the lesson does not have it.
    """
    columns = [
        name for lesson in sorted(lessons) for name in [*lessons[lesson].exercises, *lessons[lesson].written]
    ]
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8", errors="replace") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["student", "lesson", "status", "score", "max_score", "waiting", *columns, "notes"])
        for one in marked:
            scores = {item.name: f"{item.score:g}" for item in one.items}
            row = [
                one.student,
                one.lesson,
                one.status,
                f"{one.score:g}",
                f"{one.points:g}",
                f"{one.pending:g}",
            ]
            table.writerow([*row, *(scores.get(name, "") for name in columns), "; ".join(one.notes)])
    part.replace(path)


def _report(marked, lessons, left_out):
    names = sorted({one.lesson for one in marked})
    rows = collections.defaultdict(dict)
    for one in marked:
        rows[one.student][one.lesson] = one
    exercises = []
    for lesson in names:
        for name in lessons[lesson].exercises:
            items = [
                item for one in marked if one.lesson == lesson for item in one.items if item.name == name
            ]
            mistakes = collections.Counter(item.mistake["name"] for item in items if item.mistake)
            exercises.append(
                (
                    lesson,
                    name,
                    sum(item.score >= item.points for item in items),
                    len(items),
                    mistakes.most_common(3),
                )
            )
    return {
        "lessons": names,
        "rows": dict(sorted(rows.items())),
        "marked": marked,
        "exercises": exercises,
        "left_out": left_out,
    }


def table(path):
    """The report's marks as text, for the shell: a line a hand-in."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [
            (
                row["student"],
                row["lesson"],
                f"{row['score']} of {row['max_score']}",
                row["status"],
                row["notes"],
            )
            for row in csv.DictReader(file)
        ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0])).rstrip() for row in rows
    )
