"""A zip from Canvas or Moodle, or a folder -> submitted/STUDENT/NN_topic/topic.ipynb, as nbgrader has it.

Names as these systems write them: Canvas `NAME_[LATE_]USER_FILE_notebook.ipynb` (`lib/content_zipper.rb`), Moodle
`First Last_NUMBER_assignsubmission_file/notebook.ipynb`, or in one folder with `_` for the slash
(`mod/assign/classes/downloader.php`). The student becomes `NAME_USER` and `First Last_NUMBER`: the number is what
an export finds the student's row by. Nothing of a zip is written but notebooks, and the file of detections of a lesson
that wants one, under names made here.
"""

import os
import re
import stat
import sys
import unicodedata
import zipfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from coursekit.challenge import FILE

from . import handin, pages
from .lessons import HEADER, ROOT, sources

RATIO = 200  # a large notebook that is packed more tightly than this is a bomb
TOTAL = 10 * 10**9  # bytes of all notebooks together
MOST = 20_000  # entries of a zip
CANVAS = re.compile(
    r"((?P<name>[^_]\w*?)_)?(?P<late>LATE_)?(?P<user>\d+|anon_\w+?)_(?P<file>\d+)_(?P<notebook>.+\.(ipynb|json))$",
    re.IGNORECASE,
)
MOODLE = re.compile(r"(?P<name>[^/]+_\d+)_assignsubmission_file_?/?(?P<notebook>.+\.(ipynb|json))$", re.IGNORECASE)
TREE = re.compile(r"(?P<name>[^/]+)/(?P<lesson>\d\d_\w+)/(?P<notebook>[^/]+\.(ipynb|json))$")
WANTED = re.compile(r"\.ipynb$|(^|[_/])detections( ?\(\d+\)|-\d+)?\.json$", re.IGNORECASE)


class CollectError(ValueError):
    """A source that cannot be collected; says what was found and what is expected."""


@dataclass
class Found:
    """A notebook, or a file of detections, in the source: where, whose, its own name, and `read()` for its bytes.

    `student` is None where neither Canvas, Moodle nor nbgrader named it: then its folder or itself is called by the
    student.
    """

    place: str
    notebook: str
    read: object
    student: str | None = None
    lesson: str | None = None
    when: datetime | None = None
    late: bool = False

    @property
    def is_detections(self):
        return self.notebook.lower().endswith(".json")


def collect(source, lesson, submitted, root=ROOT, replace=False):
    """Copy the notebooks of `source` into `submitted`; (students collected, notes).

    Args:
        source (path): a zip or a folder: Canvas', Moodle's, nbgrader's `submitted` tree, or notebooks by student.
        lesson (str): such as 01_boxes; None takes it from the folders' or the notebooks' names.
        submitted (path): where the hand-ins go.
        replace (bool): write over hand-ins that are there and differ; these are left out otherwise.

    Raises:
        CollectError: when there is no notebook in it, or it is no zip and no folder.
    """
    source, submitted = Path(source), Path(submitted)
    known = {path.parent.name: path.stem for path in sources(root)}
    files = [path.parent.name for path in sources(root) if HEADER.search(path.read_text("utf-8"))]
    if lesson is not None and lesson not in known:
        raise CollectError(f"no lesson {lesson!r}; there are {', '.join(known)}")
    if source.is_dir():
        found, notes = _in_folder(source)
        return _copy(found, notes, known, files, lesson, submitted, replace, source)
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise CollectError(f"{source}: {error}; expected a zip file or a folder") from None
    with archive:
        found, notes = _in_zip(archive)
        return _copy(found, notes, known, files, lesson, submitted, replace, source)


def _copy(found, notes, known, files, lesson, submitted, replace, source):
    _name_students(found, set(known.values()))
    by_student = {}
    for one in found:
        if one.student is None:
            notes.append(f"{_shown(one.place)}: whose it is, neither its folder nor its name tells; left out")
            continue
        wanted = files if one.is_detections else known
        name = lesson or (files[0] if one.is_detections and files and not one.lesson else _lesson_of(one, known))
        name = name if name in wanted else None
        if name is None or (one.lesson in known and one.lesson != name):
            notes.append(
                f"{_shown(one.place)}: of {'no lesson of the course' if name is None else 'another lesson'}; left out"
            )
        else:
            file = FILE if one.is_detections else f"{known[name]}.ipynb"
            by_student.setdefault((one.student, name, file), []).append(one)
    folders, collected = _folders([student for student, _, _ in by_student], submitted, notes), {}
    for (student, name, file), several in sorted(by_student.items()):
        one = _chosen(several, Path(file).stem, notes)
        if student not in folders:
            continue
        folder = submitted / folders[student] / name
        path = folder / file
        try:
            content = one.read()
        except (
            handin.Unreadable,
            CollectError,
            OSError,
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
        ) as error:
            notes.append(f"{_shown(one.place)}: {error}; left out")
            continue
        if _outside(folder, submitted):
            notes.append(f"{_shown(one.place)}: {folder} is a link; left out")
        elif path.exists() and not replace and path.read_bytes() != content:
            notes.append(
                f"{_shown(one.place)}: another hand-in of {name} is there already; left out, --replace takes this one"
            )
        else:
            _write(path, content)
            if one.when:
                _write(folder / "timestamp.txt", one.when.strftime("%Y-%m-%d %H:%M:%S UTC\n").encode())
            if one.late:
                notes.append(f"{_shown(one.place)}: handed in late")
            collected[folders[student], name] = True
    if not collected and not any("already" in note for note in notes):
        details = f": {notes[0]}" if notes else ""
        raise CollectError(
            f"no notebook to collect in {source}{details}; expected a zip of Canvas or Moodle, or a folder of notebooks"
        )
    return list(collected), notes


def _name_students(found, topics):
    """Name those that no system named: by the folder, or by the notebook where several lie in one."""
    beside = {}
    for one in found:
        if one.student is None:
            beside.setdefault(PurePosixPath(one.place).parent, []).append(one)
    for folder, several in beside.items():
        notebooks = [one for one in several if not one.is_detections]
        by_itself = not folder.name or (
            len(notebooks) > 1 and not any(_stem(one.notebook) in topics for one in notebooks)
        )
        for one in several:
            if not by_itself:
                one.student = folder.name
            elif not one.is_detections:
                one.student = PurePosixPath(one.notebook).stem


def _folders(students, submitted, notes):
    """Student -> the name of the folder, safe on every system and for no two students the same."""
    there = {_folded(path.name): path.name for path in submitted.iterdir()} if submitted.is_dir() else {}
    folders, taken = {}, set()
    for student in sorted(set(students)):
        safe = safe_name(student)
        if safe is None:
            notes.append(f"{_shown(student)}: no folder can be called so; left out")
            continue
        folder = there.get(_folded(safe), safe)
        number = 1
        while _folded(folder) in taken:  # Ada and ada are two, but one where case is not told
            number += 1
            folder = f"{safe}-{number}"
        taken.add(_folded(folder))
        folders[student] = folder
        if folder != student:
            notes.append(f"{_shown(student)}: collected as {folder}")
    return folders


def _lesson_of(one, known):
    """By its folder, else by the notebook's name."""
    if one.lesson in known:
        return one.lesson
    stem = _stem(one.notebook)
    return next((name for name, topic in known.items() if stem in (topic, name)), None)


def _stem(notebook):
    """`boxes` of `boxes.ipynb`, `Boxes (1).ipynb`, `boxes-2.ipynb`: a browser or Canvas adds the number."""
    return re.sub(r"( ?\(\d+\)|-\d+)$", "", PurePosixPath(notebook).stem).casefold()


def _chosen(several, topic, notes):
    """One of a student's notebooks: the lesson's own by name, of these the last handed in."""
    named = [one for one in several if _stem(one.notebook) == topic] or several

    def age(one):
        number = re.search(r"(\d+)\)?$", PurePosixPath(one.notebook).stem)
        return one.when.timestamp() if one.when else 0.0, int(number[1]) if number else 0, one.place

    best = max(named, key=age)
    if len(several) > 1:
        others = ", ".join(one.place for one in several if one is not best)
        notes.append(f"{_shown(best.place)}: taken as the hand-in, and not {_shown(others)}")
    return best


def _in_folder(source):
    found, others, notes = [], [], []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        notes += [
            f"{_shown(name)}: a link to a folder; left out"
            for name in folders
            if (Path(folder) / name).is_symlink()
        ]
        for name in sorted(names):
            path = Path(folder) / name
            place = path.relative_to(source).as_posix()
            if WANTED.search(name) and not name.startswith("."):
                one = _named(place, lambda path=path: handin.fetch(path))
                one.when = _timestamp(path.with_name("timestamp.txt"))
                found.append(one)
            elif not name.startswith(".") and name != "timestamp.txt":
                others.append(place)
    return found, notes + _no_notebooks(others)


def _no_notebooks(places):
    if not places:
        return []
    shown = ", ".join(_shown(place) for place in places[:5])
    return [
        f"{len(places)} files that are no notebooks, left out: {shown}{' ...' if len(places) > 5 else ''}"
    ]


def _timestamp(path):
    """What nbgrader or collecting wrote beside the notebook."""
    try:
        return datetime.strptime(
            handin.fetch(path, largest=200).decode().strip()[:19], "%Y-%m-%d %H:%M:%S"
        ).replace(tzinfo=timezone.utc)
    except (handin.Unreadable, ValueError):
        return None


def _in_zip(archive):
    found, others, notes = [], [], []
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MOST:
        raise CollectError(f"{len(entries)} files in the zip, at most {MOST} are taken")
    if (total := sum(entry.file_size for entry in entries if _is_wanted(entry))) > TOTAL:
        raise CollectError(
            f"the notebooks have {total / 1e9:.0f} GB together, at most {TOTAL / 1e9:.0f} GB are unpacked"
        )
    for entry in entries:
        name = _decoded(entry)
        if not _is_wanted(entry):
            if not PurePosixPath(name).name.startswith(".") and "__MACOSX" not in name:
                others.append(name)
            continue
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
            notes.append(f"{_shown(name)}: a name that leads out of the folder; left out")
        elif stat.S_ISLNK(entry.external_attr >> 16):
            notes.append(f"{_shown(name)}: a link; left out")
        elif entry.file_size > max(handin.LARGE, RATIO * entry.compress_size):
            notes.append(
                f"{_shown(name)}: {entry.file_size / 1e6:.0f} MB packed into {entry.compress_size} bytes; left out"
            )
        else:
            found.append(_named("/".join(parts), lambda entry=entry: _unpacked(archive, entry)))
    return found, notes + _no_notebooks(others)


def _is_wanted(entry):
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    hidden = (
        any(part.startswith(".") and part not in (".", "..") for part in name.parts)
        or "__MACOSX" in name.parts
    )
    return bool(WANTED.search(str(name))) and not hidden


def _decoded(entry):
    """The entry's name; one that is not marked as UTF-8 may be it all the same."""
    if entry.flag_bits & 0x800:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return entry.filename


def _unpacked(archive, entry):
    """What an entry holds; no more than it says, and no more than a hand-in may have."""
    if entry.file_size > handin.LARGEST:
        raise CollectError(f"{entry.file_size / 1e6:.0f} MB, at most {handin.LARGEST / 1e6:.0f} MB are read")
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise CollectError("it holds more or less than it says")
    return content


def _named(place, read):
    """The notebook at `place`, with what its place tells."""
    whole = unicodedata.normalize("NFC", place)
    name = PurePosixPath(whole).name
    if found := MOODLE.search(whole):
        return Found(place, PurePosixPath(found["notebook"]).name, read, found["name"])
    if found := TREE.search(whole):
        return Found(place, found["notebook"], read, found["name"], found["lesson"])
    if found := CANVAS.match(name):
        return Found(
            place,
            found["notebook"],
            read,
            "_".join(filter(None, (found["name"], found["user"]))),
            late=bool(found["late"]),
        )
    return Found(place, name, read)


def safe_name(name):
    """`name` as the name of a folder on any system, or None where nothing is left of it."""
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    name = "".join(
        "_" if char in '<>:"/\\|?*' else char for char in name if unicodedata.category(char)[0] != "C"
    )
    name = name.strip(" .")
    while len(name.encode()) > 100:  # of 255, as other names are made of it
        name = name[:-1].rstrip(" .")
    if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE):
        name = f"_{name}"
    return name or None


def _folded(name):
    """Names that a system which does not tell case would take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _shown(name):
    return pages.printable(name)[:200]


def _outside(folder, submitted):
    return any(path.is_symlink() for path in (folder, folder.parent)) or not folder.resolve().is_relative_to(
        submitted.resolve()
    )


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)


def main(options):
    """`autograder collect`."""
    submitted = options.submitted or (options.course or ROOT) / "submitted"
    try:
        collected, notes = collect(
            options.source, options.lesson, submitted, options.course or ROOT, options.replace
        )
    except (CollectError, OSError) as error:
        print(f"autograder: {error}", file=sys.stderr)
        return 2
    for note in notes:
        print(f"autograder: {pages.printable(note)}", file=sys.stderr)
    print(f"{len(collected)} hand-ins collected in {submitted}", file=sys.stderr)
    return 0
