"""Long experiments of the lessons: their numbers go to `coursekit/results/NN_topic.json`, for the lesson to show.

A lesson that has one tags cells `experiment`. Together with the setup and exercise cells they define

    FORMS                      # names of what is compared
    experiment(form, seed)     # one run -> dict of str: float

A lesson can have more of them: cells tagged `experiment-NAME` define NAME_FORMS and NAME_experiment (NAME in capitals in
the former), may use what the cells tagged `experiment` define, and have a file of their own, `NN_topic_NAME.json`.

A run that stands in the file already is not run again, so the command can be stopped at any time and goes on where it
was. A run made by other cells than today's does not count.
"""

import ast
import contextlib
import datetime
import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from .lessons import ROOT, LessonError, read_cells, sources

RESULTS = ROOT / "coursekit" / "results"


def run_experiment(lesson, seeds, forms=None, *, part=None, root=ROOT, folder=None):
    """Run what is missing of a lesson's experiment; a line for each run.

    Args:
        lesson (str): such as "05_ssd".
        seeds (list of int): of the runs of each form.
        forms (list of str, optional): some of the lesson's `FORMS`; all unless given.
        part (str, optional): which experiment, of cells tagged `experiment-PART`; that of cells tagged `experiment`
            unless given.
        folder (path, optional): where the file goes; `coursekit/results`.

    Raises:
        LessonError: if there is no such lesson, it has no experiment, or a form is unknown.
    """
    paths = {path.parent.name: path for path in sources(root)}
    if lesson not in paths:
        raise LessonError(f"no lesson {lesson!r} in {Path(root) / 'solutions'}; there are {', '.join(paths)}")
    file = Path(folder or RESULTS) / f"{lesson}{f'_{part}' if part else ''}.json"
    namespace, digest = experiment_names(paths[lesson], part)
    known = list(namespace[f"{part.upper()}_FORMS" if part else "FORMS"])
    experiment = namespace[f"{part}_experiment" if part else "experiment"]
    unknown = [form for form in forms or () if form not in known]
    if unknown:
        raise LessonError(f"{lesson} has no form {unknown[0]!r}; its forms are {', '.join(map(repr, known))}")
    for seed in seeds:
        for form in forms or known:
            runs = finished(file, digest)
            if any((run["form"], run["seed"]) == (form, seed) for run in runs):
                print(f"{form}, seed {seed}: is there already", flush=True)
                continue
            started = time.monotonic()
            values = {name: round(float(value), 5) for name, value in experiment(form, seed).items()}
            run = {
                "form": form,
                "seed": seed,
                "values": values,
                "seconds": round(time.monotonic() - started, 1),
                "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
                "machine": machine(),
                "code": digest,
            }
            # read again: another process may have written meanwhile
            runs = [*finished(file, digest), run]
            runs.sort(key=lambda run: (known.index(run["form"]), run["seed"]))
            write(file, lesson, part, runs)
            print(f"{form}, seed {seed}: {values} in {run['seconds']:.0f} s", flush=True)


def experiment_names(path, part=None):
    """What the cells of a lesson's experiment define, as a dict by name, and a digest of those that are the experiment itself."""
    code, digest = experiment_cells(path, part)
    namespace = {"__name__": "experiment"}
    with contextlib.chdir(path.parent):  # where `earlier` looks for the lessons beside this one
        for number, source in enumerate(code, 1):
            exec(compile(source, f"{path.parent.name}, cell {number} of its experiment", "exec"), namespace)
    return namespace, digest


def experiment_cells(path, part=None):
    """The sources of the cells to run, in order, and a digest of those that are the experiment itself."""
    sources, own, tag = [], [], f"experiment-{part}" if part else "experiment"
    for cell in read_cells(path):
        meta = cell.metadata.get("nbgrader", {})
        tags = cell.metadata.get("tags", ())
        if cell.cell_type != "code" or not ({"experiment", tag} & set(tags) or (meta and not meta["grade"])):
            continue
        sources.append(cell.source)
        own += [cell.source] * (tag in tags)
    if not own:
        raise LessonError(f"{path} has no cell tagged `{tag}`")
    return sources, digest_of("\n\n".join(own))


def digest_of(source, *, without=()):
    """What tells that code does something else than before: 12 hexadecimal digits, the same in every version of Python.

    Comments and docstrings do not count, nor keyword arguments whose names are in `without`.
    """
    return hashlib.sha256(repr(_plain(ast.parse(source), without)).encode()).hexdigest()[:12]


def _plain(node, without):
    """A syntax tree as tuples, less what is empty: each version of Python adds fields that mostly are."""
    if isinstance(node, list):
        return tuple(_plain(one, without) for one in node)
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    if isinstance(node, ast.JoinedStr):
        fields["values"] = [part for part in node.values if getattr(part, "value", None) != ""]  # 3.12 has empty ones
    if isinstance(node, ast.Call) and "keywords" in fields:
        fields["keywords"] = [word for word in node.keywords if word.arg not in without]
    return (type(node).__name__, *((name, _plain(value, without)) for name, value in fields.items()))


def finished(file, digest):
    """The runs in the file that were made by the same cells: list of dict."""
    if not file.exists():
        return []
    return [run for run in json.loads(file.read_text(encoding="utf-8"))["runs"] if run["code"] == digest]


def write(file, lesson, part, runs):
    """The file, whole at any moment, a line for each run."""
    seeds = " ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
    command = f"autograder experiment {lesson} {f'--part {part} ' if part else ''}--seeds {seeds}"
    lines = ",\n  ".join(json.dumps(run) for run in runs)
    text = f'{{\n "lesson": "{lesson}",\n "command": "{command}",\n "runs": [\n  {lines}\n ]\n}}\n'
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, file)


def machine():
    """What the numbers were made on, in words: "2 threads of an Intel(R) Xeon(R) Processor, torch 2.11.0"."""
    import torch

    if torch.cuda.is_available():
        place = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        place = f"{threads} CPU thread{'s' * (threads > 1)}, {processor()}"
    return f"{place}, torch {torch.__version__.split('+')[0]}"


def processor():
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main(options):
    """The command: 0, or 2 and what is wrong."""
    try:
        run_experiment(options.lesson, options.seeds, options.forms, part=options.part)
    except LessonError as error:
        print(f"autograder: {error}", file=sys.stderr)
        return 2
    return 0
