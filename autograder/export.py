"""Marks for other systems: Canvas' and Moodle's own files filled in, `results.json` for Gradescope.

Sources: Canvas, `lib/gradebook_importer.rb` (which columns an import reads); Moodle,
`mod/assign/feedback/offline/importgradeslib.php`, and docs.moodle.org, "Grade import" (feedback without grades
loses the grades); Gradescope, gradescope-autograders.readthedocs.io, "Autograder Specifications".
"""

import csv
import html
import io
import json
import re
import sys
import traceback
from pathlib import Path

from . import challenge, gradebook, handin, pages, results
from .lessons import ROOT, sources

# What stands before the assignments in Canvas' file; only these and the one assignment are given back.
CANVAS_STUDENT = (
    "Student",
    "LastName",
    "FirstName",
    "ID",
    "SIS User ID",
    "SIS Login ID",
    "Integration ID",
    "Root Account",
    "Section",
)
MOODLE = {"id": "Identifier", "grade": "Grade", "feedback": "Feedback comments", "most": "Maximum Grade"}


class ExportError(ValueError):
    """A template that cannot be filled; says what was found and what is expected."""


def gathered(root=ROOT, output=None):
    """The hand-ins with the marks they have now, and notes, as `pages.gather` gives them; of all lessons."""
    output = Path(output or root)
    everything, notes = results.load_all(output)
    names = {result["lesson"] for result in everything}
    lessons = {
        path.parent.name: handin.load_lesson(path) for path in sources(root) if path.parent.name in names
    }
    return pages.gather(everything, gradebook.read(output, lessons), lessons, notes)


def canvas(template, marked, lesson, column=None, scale=False):
    """Canvas' exported gradebook, as text, with the points of one lesson filled in; and notes.

    Only the columns that name the student and the lesson's own are in it: an import changes what it finds, and
    marks of other assignments may have changed since the export.

    Args:
        template (str): the text of the CSV file that Canvas exported.
        column (str): the assignment's column, such as "Boxes (1234)"; found by the lesson's name unless given.
        scale (bool): bring points to the assignment's points possible where these differ.

    Raises:
        ExportError: when the template is none of Canvas', or no column or several fit.
    """
    header, rows, delimiter = _table(template)
    if len(header) < 4 or header[0] not in ("Student", "LastName") or "ID" not in header:
        raise ExportError(
            f"columns {_list(header)}, expected those of Canvas: Student, ID, ..., Section: Gradebook, Export"
        )
    student = [number for number, name in enumerate(header) if name in CANVAS_STUDENT]
    at = _column(header, [n for n in range(len(header)) if n not in student], lesson, column)
    points = next((row[at] for row in rows if "Points Possible" in row[0]), "")
    factor, notes = _factor(points, marked, lesson, scale, "points possible")
    keys = [header.index(name) for name in ("ID", "SIS User ID", "SIS Login ID", "Student") if name in header]
    of_student = [
        row for row in rows if "Points Possible" not in row[0] and any(row[n].strip() for n in keys)
    ]
    for row, one in _matched(of_student, keys, marked, notes):
        row[at] = _number(one.score * factor)
    kept = [*student, at]
    return _text([[pages.cell(row[n]) for n in kept] for row in [header, *rows]], delimiter), notes


def moodle(template, marked, lesson, columns=None, scale=False):
    """Moodle's grading worksheet, as text, with grade and feedback of one lesson filled in together; and notes.

    Args:
        template (str): the text of the worksheet ("Download grading worksheet").
        columns: other names of MOODLE's columns, for a Moodle in another language.
        scale (bool): bring points to the maximum grade where these differ.

    Raises:
        ExportError: when a column is missing: grades without feedback, or feedback without grades, lose marks there.
    """
    names = {**MOODLE, **{key: name for key, name in (columns or {}).items() if name}}
    header, rows, delimiter = _table(template)
    if missing := [names[key] for key in ("id", "grade", "feedback") if names[key] not in header]:
        raise ExportError(
            f"no column {' and no '.join(missing)} in {_list(header)}; expected Moodle's grading worksheet with grade and "
            "feedback, as one without the other loses marks: turn on feedback comments and the offline grading worksheet"
        )
    at = {key: header.index(name) for key, name in names.items() if name in header}
    most = next((row[at["most"]] for row in rows if "most" in at and row[at["most"]]), "")
    factor, notes = _factor(most, marked, lesson, scale, "maximum grade")
    keys = [at["id"], *(header.index(name) for name in ("Email address", "Full name") if name in header)]
    for row, one in _matched(rows, keys, marked, notes):
        row[at["grade"]], row[at["feedback"]] = (
            _number(one.score * factor),
            "<br>".join(map(html.escape, words(one))),
        )
    return _text([[pages.cell(value) for value in row] for row in [header, *rows]], delimiter), notes


def words(one):
    """The feedback on a hand-in in lines: what its page says, without a hidden check's message."""
    lines = [f"{one.lesson}: {one.score:g} of {one.points:g} points"]
    if one.trouble:
        return [*lines, f"This hand-in could not be graded: {one.trouble}."]
    for item in one.items:
        lines.append(f"{item.name}: {item.state}, {item.score:g} of {item.points:g}")
        if item.detections:
            lines.append(item.detections["message"])
        if item.exercise and not item.exercise["visible"]["passed"]:
            lines += item.exercise["visible"]["message"].splitlines()
        elif item.exercise and item.has_hidden and not item.exercise["hidden"]["passed"]:
            lines.append(
                "Hidden checks: not passed." + (f" {item.mistake['message']}" if item.mistake else "")
            )
        if item.comment and item.comment != "No response.":
            lines += item.comment.splitlines()
    return lines


def gradescope(one):
    """The hand-in's `results.json` for Gradescope, as plain data: a test for each check cell."""
    tests = []
    for item in one.items:
        if item.exercise is None:
            if item.detections and not item.pending:
                passed, message = item.score >= item.points, item.detections["message"]
                tests.append(_test(item.name, item.score, item.points, passed, message))
            continue
        message = item.exercise["visible"]["message"]
        parts = item.parts or [(item.name, item.points, False, message)]
        by_hand = item.by_hand and len(parts) > 1  # one test then, as its points are of the exercise
        whole = (item.name, item.points, item.score >= item.points, message)
        for name, points, passed, own in [whole] if by_hand else parts:
            score = item.score if len(parts) == 1 or by_hand else points if passed else 0
            first = (
                message if message.startswith(own) else own
            )  # with the mistake's name, where it is this one's
            told = [first] if own and not passed else []
            if not passed and item.has_hidden and not item.exercise["hidden"]["passed"]:
                told.append(
                    "Hidden checks: not passed." + (f" {item.mistake['message']}" if item.mistake else "")
                )
            tests.append(_test(name, score, points, passed, "\n".join(told) or "passed"))
    waiting = [item.name for item in one.items if item.exercise is None and (item.pending or not item.detections)]
    notes = [f"A person marks {', '.join(waiting)}."] if waiting and not one.trouble else []
    return {
        "score": round(sum(test["score"] for test in tests), 2),
        "execution_time": round(one.seconds, 1),
        "output": "\n".join([*one.notes, *notes]),
        "output_format": "text",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def _test(name, score, points, passed, output):
    return {
        "name": name,
        "score": score,
        "max_score": points,
        "status": "passed" if passed else "failed",
        "output": output,
        "output_format": "text",
        "visibility": "visible",
    }


def failed(reason):
    """What Gradescope gets when nothing could be graded."""
    return {"score": 0, "output": reason, "output_format": "text", "stdout_visibility": "hidden", "tests": []}


def run_in_gradescope(root=ROOT, folder="/autograder", lesson=None, timeout=30.0, unsafe=False):
    """Grade `FOLDER/submission`; `FOLDER/results/results.json` is written whatever happens. The exit status."""
    folder, status = Path(folder), 0
    try:
        told = _graded_submission(root, folder / "submission", lesson, timeout, unsafe)
    except ExportError as error:
        told = failed(str(error))
    except BaseException:
        # To the instructor only: it may quote a hidden check.
        traceback.print_exc()
        told, status = failed("The grader failed. Your instructor sees why; it is not your fault."), 1
    results.write_text(folder / "results" / "results.json", json.dumps(told, indent=1) + "\n")
    return status


def _graded_submission(root, submission, name, timeout, unsafe):
    from . import grade
    from .sandbox import Sandbox

    known = {path.parent.name: path for path in sources(root)}
    if name is None:
        there = {path.name for path in submission.glob("*.ipynb")}
        fitting = [lesson for lesson, path in known.items() if f"{path.stem}.ipynb" in there]
        if len(fitting) != 1:
            wanted = ", ".join(f"{path.stem}.ipynb" for path in known.values())
            raise ExportError(f"found {', '.join(sorted(there)) or 'no notebook'}, expected one of {wanted}")
        name = fitting[0]
    if name not in known:
        raise ExportError(f"no lesson {name!r}; there are {', '.join(known)}")
    lesson = handin.load_lesson(known[name])
    with Sandbox(unsafe=unsafe, hide=[root, submission]) as sandbox:
        truth = challenge.read_truth(Path(root) / "truth")
        job = grade.job_of(submission, "student", lesson, "", "", timeout, frozenset(), truth)
        [(_, result)] = grade.in_processes([job], 1, sandbox)
    points = {grade_id: about["max_score"] for grade_id, about in gradebook.grade_cells(lesson).items()}
    marks = {
        grade_id: gradebook.Mark(score or 0, points[grade_id], score is None)
        for grade_id, score in result["scores"].items()
    }
    [one], _ = pages.gather([result], {("student", name): (marks, {})}, {name: lesson})
    return gradescope(one)


def write(kind, root=ROOT, output=None, lesson=None, template=None, column=None, columns=None, scale=False):
    """Write the files of one kind (canvas, moodle, gradescope, csv) to `OUTPUT/exports`; paths, notes."""
    output = Path(output or root)
    marked, notes = gathered(root, output)
    lessons = sorted({one.lesson for one in marked})
    if lesson is None and len(lessons) == 1:
        lesson = lessons[0]
    if kind in ("canvas", "moodle") and (lesson not in lessons or template is None):
        what = (
            "--template FILE, the file it exported,"
            if template is None
            else "--lesson, one of " + ", ".join(lessons)
        )
        raise ExportError(f"{kind} needs {what} to fill")
    chosen = [one for one in marked if lesson in (None, one.lesson)]
    if not chosen:
        raise ExportError(
            f"no results of {lesson or 'any lesson'} in {output}; grade first: autograder grade"
        )
    folder = output / "exports"
    if kind == "csv":
        table = {
            one.lesson: handin.load_lesson(path)
            for one in chosen
            for path in sources(root)
            if path.parent.name == one.lesson
        }
        folder.mkdir(parents=True, exist_ok=True)
        pages.write_marks(folder / "marks.csv", chosen, table)
        return [folder / "marks.csv"], notes
    if kind == "gradescope":
        paths = [folder / "gradescope" / one.student / one.lesson / "results.json" for one in chosen]
        for path, one in zip(paths, chosen):
            results.write_text(path, json.dumps(gradescope(one), indent=1) + "\n")
        return paths, notes
    try:
        text = Path(template).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ExportError(f"{template} is not UTF-8; expected the file as {kind} exported it") from None
    waiting = [one.student for one in chosen if one.pending]
    if waiting:
        notes.append(
            f"{len(waiting)} hand-ins still wait for marks by hand, which count 0 in this file: {_list(waiting)}"
        )
    if kind == "canvas":
        text, more = canvas(text, chosen, lesson, column, scale)
    else:
        text, more = moodle(text, chosen, lesson, columns, scale)
    path = folder / f"{kind}-{lesson}.csv"
    results.write_text(path, text)
    return [path], [*notes, *more]


def _table(text):
    """(header, rows, delimiter); rows as long as the header."""
    first = text.lstrip("\ufeff").split("\n", 1)[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    rows = [
        row for row in csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=delimiter) if row
    ]
    if not rows:
        raise ExportError("the template is empty; expected a CSV file with a header")
    header = [name.strip() for name in rows[0]]
    return header, [[*row, *[""] * (len(header) - len(row))][: len(header)] for row in rows[1:]], delimiter


def _text(rows, delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _column(header, places, lesson, name):
    """Where the points go: the column called `name`, or the only one with the lesson's name in it."""
    if name is not None:
        found = [n for n in places if name in (header[n], re.sub(r" \(\d+\)$", "", header[n]))]
    else:
        found = [
            n
            for n in places
            if re.search(rf"\b({lesson}|{lesson[3:]}|{lesson[3:].replace('_', ' ')})\b", header[n], re.IGNORECASE)
        ]
        found = found or [n for n in places if lesson.lower() in header[n].lower()]
    if len(found) != 1:
        raise ExportError(
            f"{len(found) or 'no'} columns for {name or lesson} in {_list([header[n] for n in places])}; "
            'name the one of the assignment: --column "Title (1234)"'
        )
    return found[0]


def _factor(most, marked, lesson, scale, words):
    """What to multiply points by, and a list for notes."""
    points = marked[0].points
    try:
        most = float(most.replace(",", "."))
    except ValueError:
        return 1.0, []
    if most == points or most <= 0:
        return 1.0, []
    if not scale:
        raise ExportError(
            f"{lesson} has {points:g} points, the template's {words} is {most:g}; change it there, or use --scale"
        )
    return most / points, [f"points scaled from {points:g} to {most:g}"]


def _matched(rows, keys, marked, notes):
    """(row, hand-in) of each student who is in both; others go to the notes.

    A student is found by the folder's name, else by the number at its end, else by what stands before that.
    """
    by_key, pairs = {}, []
    for number, row in enumerate(rows):
        for key in keys:
            value = row[key].strip()
            for form in {value, *re.findall(r"\d+$", value)} - {""}:
                by_key.setdefault(form.casefold(), []).append(number)
    for one in marked:
        found = []
        for form in [one.student, *re.findall(r"_(\d+)$", one.student), re.sub(r"_\d+$", "", one.student)]:
            found = found or sorted(set(by_key.get(form.casefold(), ())))
        if len(found) == 1:
            pairs.append((found[0], one))
        else:
            notes.append(
                f"{one.student}: {'no row' if not found else f'{len(found)} rows'} of the template; left out"
            )
    rows_of = {}
    for number, one in pairs:
        rows_of.setdefault(number, []).append(one)
    for number, several in rows_of.items():
        if len(several) > 1:
            notes.append(f"{_list([one.student for one in several])}: the same row of the template; left out")
    pairs = [(rows[number], several[0]) for number, several in rows_of.items() if len(several) == 1]
    if not pairs:
        raise ExportError(
            "no student of the template has a hand-in; are folders named by id, login or full name?"
        )
    if without := len(rows) - len(rows_of):
        notes.append(
            f"{without} of {len(rows)} students of the template have no hand-in; their rows stay as they were"
        )
    return pairs


def _number(value):
    return f"{round(value, 2):g}"


def _list(names):
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def main(options):
    """`autograder export`."""
    try:
        paths, notes = write(
            options.kind,
            options.course or ROOT,
            options.output or options.course or ROOT,
            options.lesson,
            options.template,
            options.column,
            {"grade": options.grade_column, "feedback": options.feedback_column, "id": options.id_column},
            options.scale,
        )
    except (ExportError, OSError) as error:
        print(f"autograder: {error}", file=sys.stderr)
        return 2
    for note in notes:
        print(f"autograder: {pages.printable(note)}", file=sys.stderr)
    print(f"{len(paths)} files, such as {paths[0]}" if len(paths) > 1 else paths[0])
    return 0
