"""Lesson source -> `solutions/NN_topic/topic.ipynb` (executed), `course/NN_topic/topic.ipynb` (released), fingerprints.

The released notebook goes to `coursekit/released/` too, for `coursekit check-in`.

Everything generated is the same, byte for byte, each time; a lesson whose code did not change is not executed again.
"""

import copy
import hashlib
import json
import os
import re
import sys
import time
import tomllib
from pathlib import Path

from .lessons import ROOT, LessonError, exercises_of, read_cells, sources

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# Fixed, so that the Python that happened to build does not show up as a change.
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/{page})"
START = """\
# Run this cell first, and whenever you come back.
# It installs what is missing, finds your folder, and names the device.
import importlib.util, subprocess, sys

if importlib.util.find_spec("coursekit") is None:
    course = "{archive}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, course], check=True)
    importlib.invalidate_caches()

from coursekit.start import start

start("{lesson}")"""


def build(lessons=(), *, force=False, check=False, language=None, root=ROOT):
    """Build the named lessons (all unless given); the exit status.

    Args:
        lessons: folder names such as `01_boxes`.
        force (bool): execute notebooks whose source did not change too.
        check (bool): write nothing; print what is out of date and give 1 if anything is.
        language (str, optional): such as "de": build nothing but the releases with text in this language.
    """
    from . import language as other, plan

    paths = sources(root)
    names = [path.parent.name for path in paths]
    wrong = [lesson for lesson in lessons if lesson not in names]
    if wrong:
        print(f"autograder: no lesson {wrong[0]!r} in {Path(root) / 'solutions'}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    stale = []
    for path in paths:
        if lessons and path.parent.name not in lessons:
            continue
        try:
            if language is None:
                stale += build_lesson(path, force=force, check=check, root=root)
            else:
                stale += other.build_lesson(path, language, check=check, root=root)
        except LessonError as error:
            print(f"autograder: {error}", file=sys.stderr)
            return 2
    if language is None:
        stale += plan.renew(check=check, root=root)
    for item in stale if check else ():
        print(f"out of date: {item}; run `autograder build`, then commit source and notebooks together")
    return 1 if check and stale else 0


def build_lesson(path, *, force=False, check=False, root=ROOT):
    """Build one lesson; the files that were (or with `check`, are) out of date."""
    started = time.monotonic()
    lesson = path.parent.name
    solution = path.with_suffix(".ipynb")
    release = Path(root) / "course" / lesson / solution.name
    prints = Path(root) / "coursekit" / "fingerprints" / f"{lesson}.json"
    exercises_of(path)  # a lesson whose checks and exercises do not fit is refused before anything runs
    notebook = expand(path)
    executed = None if force else _executed_before(solution, notebook)
    given = _text(released(notebook))
    if executed is None and not check:
        executed = execute(notebook, path.parent)
    wanted = {
        solution: None if executed is None else _text(executed),
        release: given,
        # the same again, as `course/` is where students write: `coursekit check-in` compares with it
        Path(root) / "coursekit" / "released" / f"{lesson}.ipynb": given,
        prints: _prints_text(make_fingerprints(path)),
    }
    stale = write(wanted, check=check, root=root)
    if not check:
        print(f"{lesson}: {len(stale)} files changed, {time.monotonic() - started:.0f} s", flush=True)
    return stale


def write(wanted, *, check, root):
    """Write each file whose text is another (with `check`, none); the names of these files below `root`."""
    stale = [file for file, text in wanted.items() if text is None or not file.exists() or file.read_text("utf-8") != text]
    for file in () if check else stale:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(wanted[file], encoding="utf-8", newline="\n")
        part.replace(file)
    return [str(file.relative_to(root)) for file in stale]


def expand(path):
    """The lesson's notebook, not executed, with stable cell ids and metadata."""
    import nbformat

    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)})
    notebook.cells = head(path, repository(path.parent.parent.parent))
    seen = {cell.id for cell in notebook.cells}
    for cell in read_cells(path):
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        name = grade_id or hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        number, cell.id = 1, name[:60]
        while cell.id in seen:  # the same text twice
            number += 1
            cell.id = f"{name[:56]}-{number}"
        seen.add(cell.id)
        notebook.cells.append(cell)
    return notebook


def repository(root=ROOT):
    """`(address, branch)` from which students get the course, `[tool.autograder]` of pyproject.toml; None if not set.

    Raises:
        LessonError: if the address is not GitHub's: Colab's badge opens notebooks from there.
    """
    file = Path(root) / "pyproject.toml"
    settings = tomllib.loads(file.read_text("utf-8")).get("tool", {}).get("autograder", {}) if file.exists() else {}
    address = settings.get("repository", "").rstrip("/").removesuffix(".git")
    if not address:
        return None
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise LessonError(f"{file}: repository = {address!r}, expected https://github.com/OWNER/NAME")
    return address, settings.get("branch", "main")


def head(path, place):
    """The cells that every lesson begins with: the badge that opens it in Colab, and the cell to run first.

    The first cell is not run by the build and by nbval: it installs, and says what machine it is on.

    Args:
        path (path): the lesson's source.
        place: what `repository` gave.
    """
    import nbformat

    if place is None:
        return []
    address, branch = place
    lesson = path.parent.name
    page = f"{address.removeprefix('https://')}/blob/{branch}/course/{lesson}/{path.stem}.ipynb"
    made = {
        "badge": nbformat.v4.new_markdown_cell(BADGE.format(page=page.replace("github.com", "github", 1))),
        "start": nbformat.v4.new_code_cell(
            START.format(archive=f"{address}/archive/{branch}.zip", lesson=lesson),
            metadata={"tags": ["skip-execution", "nbval-skip"]},
        ),
    }
    for name, cell in made.items():
        cell.id = name
    return list(made.values())


def execute(notebook, folder):
    """Run the notebook in its folder; a cell that fails stops the build with its error."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = copy.deepcopy(notebook)
    environment = {**os.environ, "COURSEKIT_QUIET": "1", "COURSEKIT_CHECKPOINTS": "0"}
    client = NotebookClient(
        notebook,
        timeout=1800,
        record_timing=False,
        coalesce_streams=True,  # in how many pieces printed text arrives is chance
        resources={"metadata": {"path": str(folder)}},
        kernel_name="python3",
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise LessonError(f"{folder}: a cell failed while the notebook ran:\n{error}") from None
    notebook.metadata.language_info = dict(LANGUAGE)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.pop("transient", None)
    notebook.metadata.pop("widgets", None)
    return notebook


def _executed_before(solution, notebook):
    """`notebook` with the outputs of the executed one on disk, if its code is the same; else None.

    Its text may be another, and its first cell too: a word, or another address of the repository, is no reason to train
    every detector again.
    """
    import nbformat

    if not solution.exists():
        return None
    try:
        old = nbformat.read(solution, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError):
        return None
    before, now = ([cell for cell in one.cells[_heads(one) :] if cell.cell_type == "code"] for one in (old, notebook))
    known = [(cell.source, cell.metadata) for cell in before] == [(cell.source, cell.metadata) for cell in now]
    if not known or not all(cell.get("execution_count") for cell in before if needs_run(cell)):
        return None
    made = copy.deepcopy(notebook)
    made.metadata = old.metadata
    now = [cell for cell in made.cells[_heads(made) :] if cell.cell_type == "code"]
    for cell, ran in zip(now, before):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return made


def _heads(notebook):
    """How many cells the head has."""
    return sum(cell.id in ("badge", "start") for cell in notebook.cells[:2])


def needs_run(cell):
    """Whether an executed notebook must have run this cell."""
    skipped = "skip-execution" in cell.metadata.get("tags", ())
    return cell.cell_type == "code" and bool(cell.source.strip()) and not skipped


def _text(notebook):
    import nbformat

    return nbformat.writes(notebook, nbformat.NO_CONVERT).rstrip("\n") + "\n"


def _prints_text(table):
    """JSON with a line a mistake, so that a change of one shows as one."""
    exercises = []
    for name, rows in table.items():
        lines = ",\n  ".join(json.dumps(row) for row in rows)
        exercises.append(f' "{name}": [\n  {lines}\n ]')
    return "{\n" + ",\n".join(exercises) + "\n}\n"


def released(notebook):
    """What students open: nbgrader's own steps of `generate_assignment`, in this process and without its database."""
    from nbgrader.converters.generate_assignment import GenerateAssignment
    from nbgrader.preprocessors import SaveCells

    steps = [step for step in GenerateAssignment.preprocessors.default_args[0] if step is not SaveCells]
    notebook, resources = copy.deepcopy(notebook), {}
    for step in steps:
        notebook, resources = step()(notebook, resources)
    return notebook


def make_fingerprints(path):
    """For each exercise of the lesson, what its named mistakes give on the checks: numbers, no answers."""
    import torch

    from .judge import judge_source
    from .mistakes import MISTAKES

    torch.set_num_threads(1)
    table = {}
    for name, exercise in exercises_of(path).items():
        rows = []
        for mistake in MISTAKES.get(name, ()):
            try:
                verdict = judge_source(exercise, mistake.apply(exercise.reference), mistake.name)
            except ValueError as error:
                raise LessonError(f"{path}: {name}: {error}") from None
            if verdict.passed:
                raise LessonError(f"{path}: the checks of {name} let the mistake {mistake.name!r} pass; add one that it fails")
            prints = [one for i, one in enumerate(verdict.failures) if one not in verdict.failures[:i]]
            rows.append({"name": mistake.name, "message": mistake.message, "prints": prints})
        if rows:
            table[name] = rows
    return table
