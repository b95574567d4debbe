"""What people read of a grading run: a feedback page for each hand-in, `marks.csv`, the instructor's report.

Marks come from nbgrader's gradebook, so those given by hand count; the words come from `results/`. Of hidden
checks a feedback page says only whether they passed.
"""

import collections
import csv
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .results import write_text

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


def write(output, results, marks, lessons, left_out=(), isolation="none"):
    """Write feedback pages, `marks.csv` and `report.html`; the path of the report.

    Args:
        results: as `results.load_all` gives.
        marks: as `gradebook.fold` gives.
        lessons: name -> `handin.Lesson`.
        left_out: notes on what was not graded.
        isolation: how students' code was kept apart, in words.
    """
    marked, left_out = collect(results, marks, lessons, left_out)
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


def collect(results, marks, lessons, left_out=()):
    """The hand-ins with their marks, and notes on what was left out."""
    marked, left_out = [], list(left_out)
    for result in results:
        place, lesson = (result["student"], result["lesson"]), lessons.get(result["lesson"])
        given = marks.get(place, ({}, {}))
        if lesson is None or result["scores"].keys() != given[0].keys():
            left_out.append(f"{'/'.join(place)}: left out, graded with other exercises than now: grade it again")
        else:
            marked.append(_marked(result, given, lesson))
    return marked, left_out


def _marked(result, given, lesson):
    from coursekit.checks import known_mistakes

    marks, comments = given
    items = []
    for name, exercise in lesson.exercises.items():
        verdict = result["exercises"][name]
        item = _item(name, [marks[check.grade_id] for check in exercise.checks], comments)
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
    items += [_item(name, [marks[name]], comments) for name in lesson.written]
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
        points=sum(grade.points for grade in grades),
        pending=any(grade.pending and not grade.by_hand for grade in grades),
        by_hand=any(grade.by_hand for grade in grades),
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


def printable(text):
    """`text` so that a terminal can show it: nothing that moves the cursor or turns the writing direction."""
    return text if text.isprintable() else ascii(text)[1:-1]


def table(path):
    """The report's marks as text, for the shell: a line a hand-in."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [
            (
                printable(row["student"]),
                row["lesson"],
                f"{row['score']} of {row['max_score']}",
                row["status"],
                printable(row["notes"]),
            )
            for row in csv.DictReader(file)
        ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0])).rstrip() for row in rows
    )
