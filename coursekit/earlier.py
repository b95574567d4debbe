"""An earlier lesson's function: the student's own where it passes its check, else a library's."""

import contextlib
import functools
import io
import json
import os
from pathlib import Path

from .standins import STANDINS

COPIES = Path("/content/drive/MyDrive/Colab Notebooks")  # where Colab's "Save a copy in Drive" puts notebooks


def earlier(name, folder=None, *, required=True):
    """The student's function `name` from a sibling lesson, or the library's with the same signature.

    Looks through the notebooks of the sibling folders, runs the setup and the exercise cells of the one that holds
    the exercise, and its visible check. Says in one line which function it gives. While grading it gives the
    library's, so a mistake costs marks once.

    Args:
        name (str): an exercise of an earlier lesson.
        folder (path): the lesson that asks; the working directory unless given.
        required (bool): where neither is there, raise an error; else say so and give None.

    Raises:
        LookupError: when neither is there: says in which lesson the exercise is to be finished.
    """
    if os.environ.get("NBGRADER_EXECUTION") or os.environ.get("COURSEKIT_GRADING"):
        print(f"{name}: the library's, for grading")
        return STANDINS.get(name) or functools.partial(_absent, name)
    function, place, trouble = _students(name, Path(folder or Path.cwd()))
    if function is not None:
        print(f"{name}: yours, from {place}")
        return function
    if name in STANDINS:
        print(f"{name}: the library's, {trouble}")
        return STANDINS[name]
    missing = f"{name}: {trouble}; no library has this function, so finish that exercise first"
    if required:
        raise LookupError(missing)
    print(missing)


def names_of(lesson, folder=None):
    """What a lesson defines beside its exercises, such as the detector that it trains and its loss.

    Runs the setup, the exercises and the cells tagged `experiment` of the notebook in the sibling folder; these define,
    they train nothing.

    Args:
        lesson (str): the folder's name, such as "13_fcos".
        folder (path): the lesson that asks; the working directory unless given.

    Returns:
        dict: global names of these cells. Changing an entry changes what the cells' functions see.

    Raises:
        FileNotFoundError: if there is no notebook of that lesson.
    """
    place = Path(folder or Path.cwd()).resolve().parent / lesson
    for path in sorted(place.glob("*.ipynb")):
        namespace, here = {"__name__": "__main__"}, Path.cwd()
        cells = _cells(path)
        try:
            os.chdir(place)  # where the lesson itself would look for earlier ones
            with contextlib.redirect_stdout(io.StringIO()):
                for source in (*cells["setup"], *cells["exercises"].values(), *cells["experiment"]):
                    exec(compile(source, lesson, "exec"), namespace)
        finally:
            os.chdir(here)
        return namespace
    raise FileNotFoundError(f"no notebook in {place}: get the lesson {lesson} first")


def _absent(name, *_, **__):
    raise LookupError(f"{name} has no library form; while grading it is not needed")


def _students(name, folder):
    """The student's function or None, the lesson it stands in, and what is the matter.

    Of several notebooks that hold the exercise the first in which it passes counts.
    """
    first = None, None, "as no notebook beside this one holds yours"
    for path in [*sorted(folder.resolve().parent.glob("*/*.ipynb")), *sorted(COPIES.glob("*.ipynb"))]:
        # The text is searched before the notebook is parsed: most notebooks do not hold the exercise.
        if f'"{name}"' in path.read_text(encoding="utf-8", errors="replace"):
            cells = _cells(path)
            if name in cells["exercises"]:
                found = _run(name, cells, path)
                if found[0] is not None:
                    return found
                first = first if first[1] else found
    return first


def _cells(path):
    """The setup cells, exercises and checks of a notebook; none of a file that is not one: the library's serve then."""
    cells = {"setup": [], "exercises": {}, "checks": {}, "experiment": []}
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        return cells
    for cell in code:
        meta = cell.get("metadata", {}).get("nbgrader", {})
        grade_id, source = meta.get("grade_id", ""), "".join(cell["source"])
        if meta.get("grade"):
            cells["checks"][grade_id] = source
        elif meta.get("solution"):
            cells["exercises"][grade_id] = source
        elif grade_id.startswith("setup"):
            cells["setup"].append(source)
        elif "experiment" in cell.get("metadata", {}).get("tags", ()):
            cells["experiment"].append(source)
    return cells


def _run(name, cells, path):
    import torch

    lesson = path.parent.name
    sources = [*cells["setup"], *cells["exercises"].values()]
    namespace = {"__name__": "__main__", "__lesson__": lesson, "__cells__": sources, "__exercises__": list(cells["exercises"])}
    here = Path.cwd()
    quiet = contextlib.redirect_stdout(io.StringIO())
    try:
        os.chdir(path.parent)
        with quiet, torch.inference_mode(False), torch.enable_grad():  # checks ask for gradients, whoever asks here
            for source in cells["setup"]:
                exec(compile(source, f"{lesson}: setup", "exec"), namespace)
            for exercise, source in cells["exercises"].items():
                try:
                    exec(compile(source, f"{lesson}: {exercise}", "exec"), namespace)
                except Exception:
                    if exercise == name:
                        raise
            for grade_id, source in cells["checks"].items():
                if grade_id == f"test_{name}" or grade_id.startswith(f"test_{name}__"):
                    exec(compile(source, f"{lesson}: {grade_id}", "exec"), namespace)
    except NotImplementedError:
        return None, lesson, f"until you write yours in {lesson}"
    except Exception:
        return None, lesson, f"until yours in {lesson} passes its check"
    finally:
        os.chdir(here)
    return namespace.get(name), lesson, f"until you write yours in {lesson}"
