"""What people read of a grading run: a feedback page for each hand-in, `marks.csv`, the instructor's report.

Marks come from nbgrader's gradebook, so those given by hand count; the words come from `results/`. Of hidden
checks a feedback page says only whether they passed. Pages hold no script, and nothing of a student unescaped.
"""

import base64
import collections
import csv
import functools
import hashlib
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .results import write_text

FOLDER = Path(__file__).parent
SLOW = 5.0  # seconds worth telling a student
_RAN_OUT = re.compile(
    r"not done after (\d+\.?\d*) s"
)  # as the judge says it; a student's error begins with its type


@dataclass
class Item:
    """An exercise, a file of detections or a written answer of one hand-in, with its mark. `pending`: not marked yet."""

    name: str
    score: float
    points: float
    pending: bool = False
    by_hand: bool = False
    comment: str = ""
    exercise: dict | None = None
    detections: dict | None = None  # as `challenge.judge` gives it
    mistake: dict | None = None
    has_hidden: bool = False
    parts: list = ()  # of an exercise: (check cell, points, passed, message of its visible part)

    @property
    def ran_out(self):
        """Whether its time was over before its checks were."""
        return bool(self.exercise and _RAN_OUT.match(self.exercise["visible"]["message"]))

    @property
    def seconds(self):
        if self.ran_out:
            return float(_RAN_OUT.match(self.exercise["visible"]["message"])[1])
        return (self.exercise or self.detections or {}).get("seconds") or 0.0

    @property
    def slow(self):
        return bool(self.exercise) and self.seconds >= SLOW and not self.ran_out

    @property
    def state(self):
        if self.pending:
            return "waits for a mark"
        if self.by_hand:
            return "marked by hand"
        if self.exercise is None and self.detections is None and not self.score:
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
    when: str = ""
    isolation: str = ""

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
    def share(self):
        """Of the points that are marked, from 0 to 1; None where none are."""
        return self.score / (self.points - self.pending) if self.points > self.pending else None

    @property
    def page(self):
        return f"feedback/{self.student}/{self.lesson}/{self.topic}.html"


def write(output, results, marks, lessons, left_out=()):
    """Write feedback pages, `marks.csv` and `report.html`; the path of the report.

    Args:
        results: as `results.load_all` gives.
        marks: as `gradebook.fold` gives.
        lessons: name -> `handin.Lesson`.
        left_out: notes on what was not graded.
    """
    output = Path(output)
    marked, left_out = gather(results, marks, lessons, left_out)
    page = _templates().get_template("feedback.html")
    for one in marked:
        write_text(output / one.page, page.render(one=one))
    write_marks(output / "marks.csv", marked, lessons)
    report = output / "report.html"
    write_text(report, _templates().get_template("report.html").render(**_report(marked, lessons, left_out)))
    return report


@functools.cache
def _templates():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            _visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
        ),
    )
    style = (FOLDER / "pages.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    templates.globals.update(style=style, style_hash=f"sha256-{digest}")
    templates.filters["number"] = lambda number: f"{number:g}"
    templates.filters["link"] = quote
    templates.filters["seconds"] = lambda seconds: f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return templates


# What would be invisible, end the page's text, or turn the direction of what follows, as a picture of itself.
_INVISIBLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff\\ufffe\\uffff]"
)


def _visible(text):
    return _INVISIBLE.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)


def gather(results, marks, lessons, left_out=()):
    """The hand-ins with their marks, and notes on what was left out."""
    marked, left_out = [], list(left_out)
    hidden = {
        name: any(hidden for check in exercise.checks for _, hidden in check.statements())
        for lesson in lessons.values()
        for name, exercise in lesson.exercises.items()
    }
    for result in results:
        place, lesson = (result["student"], result["lesson"]), lessons.get(result["lesson"])
        given = marks.get(place, ({}, {}))
        if lesson is None or result["scores"].keys() != given[0].keys():
            left_out.append(
                f"{'/'.join(place)}: left out, graded with other exercises than now: grade it again"
            )
        else:
            marked.append(_marked(result, given, lesson, hidden))
    return marked, left_out


def _marked(result, given, lesson, hidden):
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
        item.has_hidden = hidden[name]
        if verdict["parts"]:
            told = verdict.get("told", {})
            item.parts = [
                (
                    check.grade_id,
                    check.points,
                    verdict["parts"].get(check.grade_id, "") is None,
                    told.get(check.grade_id, ""),
                )
                for check in exercise.checks
            ]
        items.append(item)
    if ramp := lesson.challenge:
        items.append(_item(ramp["name"], [marks[ramp["cell"]]], comments))
        items[-1].detections = result["detections"]
    items += [_item(name, [marks[name]], comments) for name in lesson.written]
    return Marked(
        result["student"],
        lesson.name,
        lesson.topic,
        items,
        result["findings"],
        result["trouble"],
        result["seconds"],
        result.get("when", ""),
        result.get("isolation", ""),
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
        name for lesson in sorted(lessons) for name in [*lessons[lesson].automatic, *lessons[lesson].written]
    ]
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8", errors="replace") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["student", "lesson", "status", "score", "max_score", "waiting", *columns, "notes"])
        for one in marked:
            scores = {item.name: f"{item.score:g}" for item in one.items}
            row = [
                cell(one.student),
                one.lesson,
                one.status,
                f"{one.score:g}",
                f"{one.points:g}",
                f"{one.pending:g}",
            ]
            table.writerow([*row, *(scores.get(name, "") for name in columns), cell("; ".join(one.notes))])
    part.replace(path)


def cell(text):
    """`text` as a cell of a CSV file that a spreadsheet does not take for a formula: with an apostrophe before it.

    Numbers stay as they are. Source: OWASP, "CSV Injection" (the characters that begin a formula).
    """
    dangerous = text[:1] in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20") and len(text) > 1
    return f"'{text}" if dangerous and not re.fullmatch(r"[-+]?\d+([.,]\d+)?", text) else text


def _report(marked, lessons, left_out):
    names = sorted({one.lesson for one in marked})
    rows = collections.defaultdict(dict)
    for one in marked:
        rows[one.student][one.lesson] = one
    exercises, mistakes = [], collections.Counter()
    for lesson in names:
        here = [one for one in marked if one.lesson == lesson and not one.trouble]
        for number, name in enumerate(lessons[lesson].automatic):
            items = [(one.items[number], one) for one in here]
            times = sorted(((item.seconds, one.student, item.ran_out) for item, one in items), reverse=True)
            known = {item.mistake["name"]: item.mistake["message"] for item, _ in items if item.mistake}
            counts = collections.Counter(item.mistake["name"] for item, _ in items if item.mistake)
            mistakes.update(
                {(lesson, name, mistake, known[mistake]): times for mistake, times in counts.items()}
            )
            exercises.append(
                {
                    "lesson": lesson,
                    "name": name,
                    "passed": sum(item.score >= item.points for item, _ in items),
                    "count": len(items),
                    "median": statistics.median([seconds for seconds, _, _ in times]) if times else 0.0,
                    "slowest": [one for one in times[:3] if one[0] >= SLOW],
                }
            )
    unsafe = sum("unsafe" in one.isolation for one in marked)
    scored = collections.defaultdict(list)
    for one in marked:
        for item in one.items:
            if item.detections and item.detections["AP"] is not None:
                scored[one.lesson, item.name].append(item.detections["AP"])
    return {
        "lessons": names,
        "rows": dict(sorted(rows.items())),
        "marked": marked,
        "exercises": exercises,
        "mistakes": mistakes.most_common(12),
        "scored": [(*place, len(APs), min(APs), statistics.median(APs), max(APs)) for place, APs in scored.items()],
        "left_out": left_out,
        "histogram": histogram([one.share for one in marked if not one.trouble and one.share is not None]),
        "isolations": collections.Counter(one.isolation for one in marked if one.isolation).most_common(),
        "unsafe": unsafe,
        "when": max((one.when for one in marked), default=""),
    }


def histogram(shares, bins=10):
    """Bars for a picture 360 wide and 150 high: how many of the shares, from 0 to 1, lie in each tenth.

    Returns:
        list of {"from", "to": whole percent, "count", "x", "y", "width", "height"}; the last one holds 1 too.
    """
    counts = [0] * bins
    for share in shares:
        counts[min(int(share * bins + 1e-9), bins - 1)] += 1
    highest = max([*counts, 1])
    width = 340 / bins
    return [
        {
            "from": 100 * n // bins,
            "to": 100 * (n + 1) // bins,
            "count": count,
            "x": round(10 + n * width, 1),
            "width": round(width - 4, 1),
            "height": round(100 * count / highest, 1),
            "y": round(120 - 100 * count / highest, 1),
        }
        for n, count in enumerate(counts)
    ]


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
