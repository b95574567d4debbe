"""A notebook beside the lesson that it comes from: which of its cells is which, whatever an editor did to them.

Nothing of a submitted notebook is trusted but the text of the cells that the student wrote: metadata, ids,
outputs, check and setup cells all come from the lesson. What had to be put right is told in `findings`.
The grader restores hand-ins with this, and `coursekit check-in` tells students beforehand.
"""

import collections
import contextlib
import functools
import json
import operator
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

LARGEST = 100 * 10**6  # bytes of a hand-in
LARGE = 10 * 10**6  # worth a note
MEMORY = 200 * 10**6  # for what a notebook becomes when read, and ten times its size
MOST_CELLS = 2000


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

    @property
    def automatic(self):
        """Names of what a grader marks by itself."""
        return [*self.exercises, *([self.challenge["name"]] if self.challenge else [])]

    @property
    def challenge(self):
        """What the file of detections earns, {"name", "cell", "points", "zero", "full"}; None where none is handed in."""
        for cell in self.cells:
            if ramp := cell.metadata.get("detections"):
                meta = cell.metadata["nbgrader"]
                name = meta["grade_id"].removeprefix("test_")
                return {"name": name, "cell": meta["grade_id"], "points": meta["points"], **ramp}
        return None


@dataclass
class Cell:
    """A cell of the hand-in: `role` is that of the lesson's cell that it is, or "added".

    `number`: which of the submitted cells it is; None where the lesson's own was put in for a missing one.
    """

    role: str
    type: str
    source: str
    name: str = ""
    lesson: dict | None = None
    edited: bool = False
    missing: bool = False
    number: int | None = None


@dataclass
class HandIn:
    """`findings` in words; `facts` the same by kind: "lost", "placed", "twice", "moved", "edited", "missing",
    "foreign" -> grade ids."""

    cells: list[Cell]
    findings: list[str] = field(default_factory=list)
    facts: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))


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


def fetch(path, protected=frozenset(), largest=LARGEST, what="notebook"):
    """The bytes of a submitted file. Nothing but a regular file is opened for more than a look.

    Args:
        protected: (device, inode) of the course's own files, as `files_of` gives: a hard link to one is refused.
        largest (int): in bytes.
        what (str): what it should be, in words.

    Raises:
        Unreadable: when it is missing, a link, no file, too large, or may not be read.
    """
    path = Path(path)
    if path.is_symlink():
        raise Unreadable(f"{path.name} is a link, expected the {what} itself")
    # Not waiting, or a named pipe would be waited at for ever.
    flags = [getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")]
    try:
        file = os.open(path, functools.reduce(operator.or_, flags, os.O_RDONLY))
    except FileNotFoundError:
        others = sorted(ascii(other.name)[1:-1] for other in path.parent.glob(f"*{path.suffix}"))
        found = (
            f"found {', '.join(others[:3])}: rename it and grade again"
            if others
            else f"no {what} was handed in"
        )
        raise Unreadable(f"there is no {path.name}; {found}") from None
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be opened ({error.strerror}), expected a file") from None
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode):
        os.close(file)
        raise Unreadable(
            f"{path.name} is no regular file (a folder, pipe or device?), expected the {what} itself"
        )
    with open(file, "rb") as file:
        if (about.st_dev, about.st_ino) in protected:
            raise Unreadable(
                f"{path.name} is a file of the course under another name, expected the student's own"
            )
        content = file.read(largest + 1) if about.st_size <= largest else None
    if content is None or len(content) > largest:
        size, hint = f"{max(about.st_size, largest + 1) / 1e6:.0f} MB", ": clear its outputs, save it" * (what == "notebook")
        raise Unreadable(f"{path.name} has {size}, at most {largest / 1e6:.0f} MB are read{hint}")
    return content


def read(content, name="the notebook"):
    """`(cells, notes)` of a submitted notebook's bytes: (type, source, what else of it matters) for each cell.

    Read with nothing taken for granted: of format 2 to 4, without validating, and outputs are left behind.

    Raises:
        Unreadable: when it is empty, no notebook, or without cells.
    """
    if not content.strip():
        raise Unreadable(f"{name} is empty ({len(content)} bytes)")
    notes = []
    encoding = json.detect_encoding(content)
    try:
        with memory(10 * len(content) + MEMORY):
            text = content.decode(encoding, "replace")
            notebook = json.loads(text)
    except Exception as error:  # a broken file raises whatever its breakage leads to
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
        raise Unreadable(f"{name} is not a notebook ({reason})") from None
    if not isinstance(notebook, dict):
        raise Unreadable(
            f"{name} is not a notebook (a JSON {type(notebook).__name__}, expected an object with cells)"
        )
    if "\ufffd" in text and not _decodes(content, encoding):
        notes.append("the file is not valid UTF-8; what could not be read was replaced by \ufffd")
    found, sheets = notebook.get("cells"), notebook.get("worksheets")
    if not isinstance(found, list) and isinstance(sheets, list):
        notes.append("the notebook has an old format (3 or before) and was converted")
        sheets = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)]
        found = [cell for cells in sheets if isinstance(cells, list) for cell in cells]
    if not isinstance(found, list) or not found:
        raise Unreadable(f"{name} is a notebook without cells")
    if len(found) > MOST_CELLS:
        raise Unreadable(
            f"{name} has {len(found)} cells, at most {MOST_CELLS} are read: is it the lesson's notebook?"
        )
    cells = [
        _cell(cell) for cell in found if isinstance(cell, dict) and isinstance(cell.get("cell_type"), str)
    ]
    if len(cells) < len(found):
        notes.append(f"{len(found) - len(cells)} of {len(found)} cells are no notebook cells; left out")
    if not cells:
        raise Unreadable(f"{name} is a notebook without cells")
    if len(content) > LARGE:
        notes.append(f"the file has {len(content) / 1e6:.0f} MB; its outputs were not read")
    if language := _other_language(notebook.get("metadata")):
        notes.append(f"the notebook was saved with a kernel for {language}; it was graded as Python")
    ids = collections.Counter(about["id"] for _, _, about in cells if about["id"])
    if twice := [one for one, times in ids.items() if times > 1]:
        notes.append(f"{len(twice)} cell ids stand more than once, such as {_short(twice[0])}")
    return cells, notes


def _cell(cell):
    """(type, source, grade id and id) of a cell, whatever it holds."""
    source = cell.get("source", cell.get("input", ""))  # input: of format 3 and before
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    source = source if isinstance(source, str) else ""
    source = source.encode("utf-8", "replace").decode()  # a lone surrogate could not be written anywhere
    meta = cell.get("metadata")
    meta = meta.get("nbgrader") if isinstance(meta, dict) else None
    name, key = meta.get("grade_id") if isinstance(meta, dict) else None, cell.get("id")
    about = {"grade_id": name if isinstance(name, str) else None, "id": key if isinstance(key, str) else None}
    return "code" if cell["cell_type"] == "code" else "markdown", source, about


def _decodes(content, encoding):
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _other_language(metadata):
    """The language of the kernel that a notebook names, where it is not Python."""
    metadata = metadata if isinstance(metadata, dict) else {}
    for part, key in (("language_info", "name"), ("kernelspec", "language")):
        language = metadata[part].get(key) if isinstance(metadata.get(part), dict) else None
        if isinstance(language, str) and language:
            return None if language.lower() in ("python", "ipython") else _short(language)
    return None


def _short(text):
    """A student's text as it may stand in a note: one line, not long."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= 60 else text[:57] + "..."


@contextlib.contextmanager
def memory(more):
    """At most so many bytes more than now, where the system can say so; a MemoryError beyond."""
    try:
        import resource

        with open("/proc/self/status") as status:
            now = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
        before = resource.getrlimit(resource.RLIMIT_DATA)
    except (ImportError, OSError, StopIteration):
        yield
        return
    allowed = now + more if before[1] == resource.RLIM_INFINITY else min(now + more, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def restore(lesson, submitted, notes=(), by_place=False):
    """The hand-in with every cell of the lesson in its place.

    A cell is known by its grade id, else by its cell id, else by its text, an exercise's also by what it
    defines. Where a cell stands twice, the last one that the student changed counts.

    Args:
        submitted, notes: what `read` gave.
        by_place (bool): take an answer that nothing else tells for the one that belongs between its neighbours;
            a guess that its student can look at, so grading does not make it.
    """
    template = {cell.id: cell for cell in lesson.cells}
    hand_in = HandIn([], list(notes))
    cells, findings, facts = hand_in.cells, hand_in.findings, hand_in.facts
    owners = owners_of(lesson, template, submitted, findings, facts)
    if by_place:
        _by_place(template, submitted, owners, facts)
    counts = {}
    for number, owner in enumerate(owners):
        if owner is not None:
            counts.setdefault(owner, []).append(number)
    chosen = {
        owner: _counting(lesson.released[owner], numbers, submitted) for owner, numbers in counts.items()
    }
    for owner, numbers in counts.items():
        if len(numbers) > 1 and role(template[owner]) != "lesson":
            facts["twice"].append(grade_id(template[owner]))
            findings.append(
                f"the cell {grade_id(template[owner])} stands {len(numbers)} times; "
                "the last changed one counts"
            )
    places = {key: place for place, key in enumerate(template)}
    here = [owner for number, owner in enumerate(owners) if owner is not None and chosen[owner] == number]
    moved = _moved([places[owner] for owner in here if role(template[owner]) != "lesson"])
    if moved:
        facts["moved"] = [grade_id(lesson.cells[place]) for place in moved]
        findings.append(f"cells that stand in another place than in the lesson: {', '.join(facts['moved'])}")
    for number, (owner, (kind, source, _)) in enumerate(zip(owners, submitted)):
        if owner is None:
            cells.append(Cell("added", kind if kind == "code" else "markdown", source, number=number))
            continue
        cell, edited = template[owner], not _alike(source, lesson.released[owner])
        if chosen[owner] != number:
            if edited and role(cell) in ("exercise", "written", "lesson"):
                cells.append(Cell("added", cell.cell_type, source, number=number))
        elif role(cell) in ("setup", "check"):
            if edited:
                facts["edited"].append(grade_id(cell))
                findings.append(
                    f"the {role(cell)} cell {grade_id(cell)} was edited; the lesson's own was used"
                )
            cells.append(_own(cell, number=number))
        else:
            cells.append(
                Cell(role(cell), cell.cell_type, source, grade_id(cell), cell, edited, number=number)
            )
    _put_back(lesson, cells, findings, facts)
    return hand_in


def nothing(lesson):
    """The hand-in of someone whose file cannot be read: every graded cell as released, none of it run."""
    return HandIn([_own(cell, missing=True) for cell in lesson.cells if role(cell) != "lesson"])


def _own(cell, missing=False, number=None):
    return Cell(
        role(cell), cell.cell_type, cell.source, grade_id(cell), cell, missing=missing, number=number
    )


def owners_of(lesson, template, submitted, findings, facts):
    """For each submitted cell the id of the lesson's cell that it is, or None."""
    by_grade_id = {grade_id(cell): key for key, cell in template.items() if grade_id(cell)}
    by_text = {_trimmed(text): key for key, text in reversed(lesson.released.items()) if text.strip()}
    owners, repaired = [], []
    foreign = {
        _short(cell["grade_id"]): 0
        for _, _, cell in submitted
        if cell["grade_id"] not in (None, *by_grade_id)
    }
    for _, source, cell in submitted:
        owner = by_grade_id.get(cell["grade_id"])
        if owner is None:
            key = cell["id"]
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
        facts["lost"] = list(dict.fromkeys(repaired))
        findings.append(
            "cells without their nbgrader metadata, known again by name or text: "
            + ", ".join(facts["lost"])
        )
    if foreign:
        facts["foreign"] = list(foreign)
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        findings.append(
            f"cells of another notebook, taken as the student's own: {', '.join(list(foreign)[:5])}{more}"
        )
    return owners


def _by_place(template, submitted, owners, facts):
    """Give each answer that was not found the first unknown cell of its type between its known neighbours."""
    keys = list(template)
    for place, key in enumerate(keys):
        if role(template[key]) not in ("exercise", "written") or key in owners:
            continue
        before = [owners.index(one) for one in keys[:place] if one in owners][-1:]
        after = [owners.index(one) for one in keys[place + 1 :] if one in owners][:1]
        if not before and not after:
            continue
        start, end = before[0] + 1 if before else 0, after[0] if after else len(owners)
        for number in range(start, end):
            kind, source, about = submitted[number]
            if owners[number] is None and kind == template[key].cell_type and source.strip():
                if about["grade_id"] is None:
                    owners[number] = key
                    facts["placed"].append(grade_id(template[key]))
                    break


def _moved(order):
    """What must be taken out of a list of different numbers, the least of them, so that it is in order."""
    kept = []  # for each number the longest rising list that ends with it
    for number in order:
        before = [rising for rising in kept if rising[-1] < number]
        kept.append([*max(before, key=len, default=[]), number])
    stay = max(kept, key=len, default=[])
    return [number for number in order if number not in stay]


def _counting(given, numbers, submitted):
    """Which of several copies counts: the last that the student changed, else the last."""
    return next((n for n in reversed(numbers) if not _alike(submitted[n][1], given)), numbers[-1])


def _put_back(lesson, cells, findings, facts):
    """Insert the graded and setup cells that are missing, each before the next one that is there."""
    place = len(cells)
    for cell in reversed(lesson.cells):
        here = next((n for n, one in enumerate(cells) if one.lesson is cell), None)
        if here is not None:
            place = here
        elif role(cell) != "lesson":
            cells.insert(place, _own(cell, missing=True))
            facts["missing"].insert(0, grade_id(cell))
            put_back = "; it was put back" if role(cell) in ("setup", "check") else ""
            findings.append(f"the {role(cell)} cell {grade_id(cell)} is missing{put_back}")


def _trimmed(text):
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _alike(one, other):
    return _trimmed(one) == _trimmed(other)


