"""`coursekit check-in NOTEBOOK`: what a grader would stumble over, told before it is handed in, and repaired.

Editors lose what graders need: nbgrader's metadata and the ids of cells. The notebook is held beside the one that
was released, cell by cell, and a copy with everything in its place is written beside it.
"""

import ast
import copy
import datetime
import json
import os
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace

from .challenge import FILE, Malformed, load, tell
from .cli import Finding
from .handin import LARGE, LARGEST, Lesson, Unreadable, fetch, grade_id, owners_of, read, restore, role

RELEASED = Path(__file__).parent / "released"  # NN_topic.ipynb as students get them; the build writes them
READ = 10 * LARGEST  # bytes: what a grader refuses can still be made smaller here
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass
class Report:
    """What was found in a notebook.

    Attributes:
        notebook (path): the file.
        lesson (str or None): the lesson it is, such as "01_boxes".
        findings (list of Finding): in the order in which to read them.
        repaired (str or None): the text of a notebook without what can be repaired; None if nothing is to be.
    """

    notebook: Path
    lesson: str | None = None
    findings: list = field(default_factory=list)
    repaired: str | None = None

    @property
    def wrong(self):
        """How many findings keep it from being graded as meant: int."""
        return sum(finding.state == "WRONG" for finding in self.findings)

    def add(self, state, what, todo=""):
        self.findings.append(Finding(state, what, todo))


def main(options):
    """The command: 0 if it can be handed in, 1 if something is wrong, 2 if it could not be looked at."""
    path = Path(options.notebook)
    try:
        report = check_in(path, lesson=options.lesson, released=options.released)
        written = write(report, options.in_place)
    except (Unreadable, LookupError, OSError) as error:
        what = str(error.args[0]) if isinstance(error, LookupError) else str(error)
        print(json.dumps({"notebook": str(path), "ready": False, "error": what}) if options.json else f"WRONG  {what}")
        return 2
    if options.json:
        findings = [asdict(finding) for finding in report.findings]
        about = {"notebook": str(path), "lesson": report.lesson, "ready": not report.wrong}
        print(json.dumps({**about, "findings": findings, "repaired": written and str(written)}, indent=1))
        return min(report.wrong, 1)
    for finding in report.findings:
        print(finding)
    print(f"\n{said(report, written)}")
    return min(report.wrong, 1)


def said(report, written):
    """The last line of the report, for people."""
    if written == report.notebook:
        return f"{written.name} was repaired. Close it without saving, open it again, and look whether each answer is yours."
    if written:
        return f"{written} is repaired. Open it, look whether each answer is yours, and hand that file in."
    if report.wrong:
        return f"{report.wrong} thing{'s are' if report.wrong > 1 else ' is'} wrong; no repair can do this for you."
    return "Ready to be handed in."


def write(report, in_place=False):
    """Writes the repaired notebook beside the one it was made of, or over it; the path, or None.

    A file that is there already is left as it is: somebody may have gone on in it.
    """
    if report.repaired is None:
        return None
    path = report.notebook
    if not in_place:
        number = 1
        while True:
            beside = path.with_name(f"{path.stem}.repaired{f'-{number}' if number > 1 else ''}.ipynb")
            if not beside.exists():
                break
            if beside.read_bytes() == report.repaired.encode():
                return beside
            number += 1
        path = beside
    part = path.with_name(path.name + ".part")
    part.write_text(report.repaired, encoding="utf-8", newline="\n")
    os.replace(part, path)
    return path


def check_in(path, *, lesson=None, released=None):
    """What a grader would stumble over in a notebook.

    Args:
        path (path): the notebook.
        lesson (str, optional): the lesson it is meant for; by the name of the file or its folder unless given.
        released (path, optional): the notebook as it was released, or a folder of them, `NN_topic/topic.ipynb`;
            those that coursekit brings along unless given.

    Returns:
        Report

    Raises:
        Unreadable: if it is no notebook; says what was found.
        LookupError: if there is no such lesson, or no released notebook where one was named.
    """
    path = Path(path)
    report, lessons = Report(path), released_lessons(released)
    if lesson is not None and lesson not in lessons:
        raise LookupError(f"no lesson {lesson!r}; there are {', '.join(lessons)}")
    if not path.exists():
        raise Unreadable(f"there is no {path}")
    content = fetch(path, largest=READ)
    submitted, notes = read(content, path.name)
    meant, by = (lesson, "--lesson") if lesson else meant_for(path, lessons)
    found = content_of(submitted, lessons)
    if found is None:
        named = meant or "any lesson"
        report.add("WRONG", f"no cell of {named} is in {path.name}", f"hand in the notebook {example(meant, lessons)}")
        return report
    report.lesson = found.name
    if meant and meant != found.name:
        report.add(
            "WRONG",
            f"this is the notebook of {found.name}, and by {by} it is handed in for {meant}",
            f"hand in {lessons[meant].topic}.ipynb for {meant}, or this one for {found.name}",
        )
        return report
    minutes = (time.time() - path.stat().st_mtime) / 60
    report.add("ok", f"{path.name} is the notebook of {found.name}, last saved {ago(minutes)}")
    hand_in = restore(found, submitted, by_place=True)
    look_at_cells(report, hand_in, found, notes)
    look_at_answers(report, hand_in, found)
    look_at_file(report, path, found, len(content))
    if found.challenge:
        look_at_detections(report, path.with_name(FILE), found.challenge)
    todo = [kind for kind in ("lost", "placed", "twice", "edited", "missing") if hand_in.facts[kind]]
    if todo or len(content) > LARGE or any("MB" not in note for note in notes):
        report.repaired = repaired(content, hand_in, found, outputs=len(content) <= LARGE)
    return report


def look_at_cells(report, hand_in, lesson, notes):
    """What became of the lesson's own cells."""
    facts = hand_in.facts
    roles = {grade_id(cell): role(cell) for cell in lesson.cells if role(cell) != "lesson"}
    tell = [
        ("lost", "without the metadata by which a grader finds them", "put back in the repaired copy"),
        ("placed", "known only by their place", "look in the repaired copy whether these are your answers"),
        ("twice", "more than once in it", "in the repaired copy the last one that you changed counts"),
        ("edited", "the lesson's own, but edited", "a grader puts its own in their place; so does the repaired copy"),
    ]  # fmt: skip
    for kind, what, todo in tell:
        if names := facts[kind]:
            count = f"{len(names)} cell{'s' * (len(names) > 1)}"
            report.add("WRONG", f"{what}: {count}, {listed(names)}", todo)
    own = [name for name in facts["missing"] if roles[name] in ("setup", "check")]
    answers = [name for name in facts["missing"] if roles[name] in ("exercise", "written")]
    if own:
        report.add("WRONG", f"cells of the lesson are missing: {listed(own)}", "put back in the repaired copy")
    if answers:
        todo = "they are empty in the repaired copy: write, or move your answer there"
        report.add("WRONG", f"cells for answers are missing: {listed(answers)}", todo)
    if facts["moved"]:
        report.add("note", f"cells that stand in another place than in the lesson: {listed(facts['moved'])}")
    if facts["foreign"]:
        report.add("note", f"cells of another notebook, which earn nothing: {listed(facts['foreign'])}")
    for note in notes:
        if "MB" not in note:  # the size has a line of its own
            report.add("note", note)


def look_at_answers(report, hand_in, lesson):
    """Which answers are there, and whether they are Python that defines what is asked for."""
    points = points_of(lesson)
    cells = {cell.name: cell for cell in hand_in.cells if cell.role in ("exercise", "written")}
    there = [name for name, cell in cells.items() if cell.edited and cell.source.strip()]
    if not there:
        report.add(
            "WRONG",
            "nothing is answered: every answer is as it was released",
            "save the notebook (Ctrl-S), and hand in the file that you worked in",
        )
        return
    worth = f"{sum(points[name] for name in there)} of {sum(points.values())} points"
    report.add("ok", f"{len(there)} of {len(cells)} answers are there, for {worth}")
    open_ = [name for name in cells if name not in there and name not in hand_in.facts["missing"]]
    if open_:
        report.add("note", f"not answered yet: {listed(f'{name} ({points[name]} points)' for name in open_)}")
    bound = set()
    for cell in hand_in.cells:
        if cell.type == "code":
            bound |= names_in(cell.source)
    for name in there:
        if cells[name].role != "exercise":
            continue
        if trouble := syntax_error(cells[name].source):
            report.add("WRONG", f"the answer {name} is not Python: {trouble}", "correct it, run it, save")
        elif name not in bound:
            report.add("WRONG", f"no cell defines {name}", f"a grader calls it by that name: def {name}(...)")


def look_at_file(report, path, lesson, size):
    """The file's name and size."""
    name = f"{lesson.topic}.ipynb"
    if path.name != name and not path.stem.startswith(f"{lesson.topic}.repaired"):
        report.add("note", f"the file is called {path.name}", f"name it {name} unless you were told otherwise")
    if size > LARGEST:
        report.add("WRONG", f"the file has {size / 1e6:.0f} MB, graders read {LARGEST / 1e6:.0f}", "the repaired copy has no outputs")
    elif size > LARGE:
        report.add("note", f"the file has {size / 1e6:.0f} MB, nearly all outputs", "the repaired copy has none; sites often refuse large files")


def look_at_detections(report, path, ramp):
    """The file of detections that is handed in beside the notebook."""
    if not path.exists():
        report.add("note", f"{FILE} is not beside the notebook ({ramp['points']} points)", "the lesson says how to write it")
        return
    try:
        report.add("ok", tell(path, ramp["points"], ramp["zero"], ramp["full"])[0])
    except Malformed as error:
        report.add("WRONG", f"{FILE} earns nothing: {error}", "coursekit.challenge.write writes such files")
    if load(images=False).practice:
        report.add("note", "practice pictures earn nothing: the challenge comes from your instructor, with coursekit")


def released_lessons(place=None):
    """The lessons as students get them: name -> Lesson, in order.

    Raises:
        LookupError: if there is none at the place.
    """
    place = Path(place or RELEASED)
    if place.is_file():
        files = [place]
    else:
        files = sorted(path for path in place.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    lessons = {}
    for file in files:
        name = file.stem if re.match(r"\d\d_", file.stem) else file.parent.name
        notebook = json.loads(file.read_text("utf-8"))
        cells = [
            SimpleNamespace(**cell | {"source": "".join(cell["source"]), "id": cell.get("id", f"cell-{number}")})
            for number, cell in enumerate(notebook["cells"])
        ]
        exercises = {grade_id(cell): None for cell in cells if role(cell) == "exercise"}
        given = {cell.id: cell.source for cell in cells}
        topic = re.sub(r"^\d\d_", "", file.stem)
        lessons[name] = Lesson(name, topic, exercises, cells, given, notebook["metadata"])
    if not lessons:
        raise LookupError(f"no released notebook in {place}, expected NN_topic/topic.ipynb")
    return lessons


def meant_for(path, lessons):
    """The lesson that a file's name or folder tells, and which of the two told; None if neither does."""
    for name, lesson in lessons.items():
        if path.stem == lesson.topic:
            return name, "its file's name"
    folder = path.resolve().parent.name
    return (folder, "its folder") if folder in lessons else (None, None)


def content_of(submitted, lessons):
    """The lesson of which a notebook holds the most graded cells, by whatever they are known; None if it holds none."""

    def known(lesson):
        template = {cell.id: cell for cell in lesson.cells}
        owners = set(owners_of(lesson, template, submitted, [], {}))
        return sum(role(template[key]) not in ("lesson", "setup") for key in owners if key)

    best = max(lessons.values(), key=known)
    return best if known(best) else None


def example(name, lessons):
    """A file to hand in, in words."""
    if name:
        return f"{lessons[name].topic}.ipynb of {name}"
    first = next(iter(lessons.values()))
    return f"of a lesson, such as {first.name}/{first.topic}.ipynb"


def points_of(lesson):
    """The points of each answer: name -> int."""
    points = dict.fromkeys((grade_id(cell) for cell in lesson.cells if role(cell) in ("exercise", "written")), 0)
    for cell in lesson.cells:
        worth = cell.metadata.get("nbgrader", {}).get("points", 0)
        if role(cell) == "written":
            points[grade_id(cell)] += worth
        elif role(cell) == "check" and "detections" not in cell.metadata:
            points[grade_id(cell).removeprefix("test_").split("__")[0]] += worth
    return points


def parsed(source):
    """The syntax tree of a cell, lines of IPython's own (`%matplotlib`, `!ls`) left out."""
    if source.lstrip().startswith("%%"):
        return ast.parse("")
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))


def syntax_error(source):
    """What is not Python in a cell, or None."""
    try:
        parsed(source)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return None


def names_in(source):
    """The names that a cell's top level binds: set of str; none of a cell that is not Python."""
    if syntax_error(source):
        return set()
    found = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found


def repaired(content, hand_in, lesson, outputs=True):
    """The notebook's text with each cell of the lesson in its place and known to a grader.

    Args:
        content (bytes): the notebook.
        outputs (bool): keep them, where the format has not changed since.
    """
    notebook = json.loads(content.decode(json.detect_encoding(content), "replace"))
    raw = notebook.get("cells")
    outputs = outputs and isinstance(raw, list) and notebook.get("nbformat") == 4
    if not isinstance(raw, list):
        raw = [cell for sheet in notebook["worksheets"] if isinstance(sheet, dict) for cell in sheet.get("cells", ())]
    raw = [cell for cell in raw if isinstance(cell, dict) and isinstance(cell.get("cell_type"), str)]  # as `read`
    cells, used = [], {cell.id for cell in lesson.cells}
    for cell in hand_in.cells:
        old = raw[cell.number] if cell.number is not None else {}
        metadata = old.get("metadata") if isinstance(old.get("metadata"), dict) else {}
        made = {
            "cell_type": cell.type,
            "id": cell.lesson.id if cell.lesson else fresh_id(old.get("id"), used),
            "metadata": {key: value for key, value in metadata.items() if key != "nbgrader"},
            "source": cell.source,
        }
        if cell.lesson:
            made["metadata"].update(copy.deepcopy(cell.lesson.metadata))
        if cell.type == "code":
            kept = outputs and isinstance(old.get("outputs"), list) and cell.name not in hand_in.facts["edited"]
            count = old.get("execution_count")
            made["outputs"] = old["outputs"] if kept else []
            made["execution_count"] = count if kept and isinstance(count, int) else None
        elif isinstance(old.get("attachments"), dict):
            made["attachments"] = old["attachments"]
        used.add(made["id"])
        cells.append(made)
    own = notebook.get("metadata") if isinstance(notebook.get("metadata"), dict) else {}
    metadata = {key: value for key, value in own.items() if key != "widgets"} | lesson.metadata
    made = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"


def fresh_id(own, used):
    """A cell's own id if it may keep it, else one that no other cell has."""
    if isinstance(own, str) and CELL_ID.fullmatch(own) and own not in used:
        return own
    return next(one for number in range(len(used) + 1) if (one := f"added-{number}") not in used)


def listed(names, most=6):
    """Names in one line, not too many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def ago(minutes):
    """A time span in words."""
    if minutes < 1.5:
        return "a minute ago"
    if minutes < 120:
        return f"{minutes:.0f} minutes ago"
    when = datetime.datetime.now() - datetime.timedelta(minutes=minutes)
    return f"on {when:%Y-%m-%d at %H:%M}"
