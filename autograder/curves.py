"""The losses of the solution's own trainings: `coursekit/curves/NN_topic.json`, to which students' runs are compared.

A training takes part by its name, `fit(..., expected="05_ssd scenes")`. The lesson's cells are run down to its last such
call, once for each seed. Runs that stand in the file and belong to the cell of today are not run again.
"""

import ast
import contextlib
import datetime
import json
import math
import os
import sys

from coursekit import expected

from .experiment import digest_of, machine
from .lessons import ROOT, LessonError, read_cells, sources

POINTS = 40  # of a curve that are kept
NO_MATTER = ("expected", "checkpoint")  # arguments of a training that do not change its losses


def record(lesson, seeds, *, root=ROOT, folder=None):
    """Run what is missing; a line for each run.

    Args:
        lesson (str): such as "05_ssd".
        seeds (list of int): each shifts all that torch draws while the lesson runs.
        folder (path, optional): where the file goes; `coursekit/curves`.

    Raises:
        LessonError: if there is no such lesson, or no training in it has a name.
    """
    paths = {path.parent.name: path for path in sources(root)}
    if lesson not in paths:
        raise LessonError(f"no lesson {lesson!r} in {root / 'solutions'}; there are {', '.join(paths)}")
    cells = list(cells_to_run(paths[lesson]))
    named = {name: digest_of(source, without=NO_MATTER) for source in cells for name in trainings(source)}
    if not named:
        raise LessonError(f'{paths[lesson]} has no fit(..., expected="{lesson} NAME")')
    file = (folder or expected.FOLDER) / f"{lesson}.json"
    for seed in seeds:
        there = {run["name"] for run in kept(file, named) if run["seed"] == seed}
        if there == set(named):
            print(f"seed {seed}: is there already", flush=True)
            continue
        made = [{**run, "seed": seed, "code": named[run["name"]]} for run in train(cells, seed, paths[lesson].parent)]
        runs = [run for run in kept(file, named) if run["seed"] != seed] + made
        write(file, lesson, sorted(runs, key=lambda run: (list(named).index(run["name"]), run["seed"])))
        for run in made:
            ends = {name: round(values[-1], 3) for name, values in run["losses"].items()}
            print(f"{run['name']}, seed {seed}: ends at {ends} in {run['seconds']:.0f} s", flush=True)


def cells_to_run(path):
    """The sources of a lesson's code cells, without checks, down to the last training that has a name."""
    code = [
        cell.source
        for cell in read_cells(path)
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade")
    ]
    last = max((number for number, source in enumerate(code) if trainings(source)), default=-1)
    return code[: last + 1]


def trainings(source):
    """The names of the trainings in a cell: list of str."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    keywords = [keyword for call in calls for keyword in call.keywords if keyword.arg == "expected"]
    return [word.value.value for word in keywords if isinstance(word.value, ast.Constant) and word.value.value]


def train(cells, seed, folder):
    """Run the cells with other random numbers; the named trainings that they did: list of dict."""
    import matplotlib
    import torch

    from coursekit import training

    matplotlib.use("Agg")
    fit, manual_seed, made = training.fit, torch.manual_seed, []

    def recording(*arguments, **options):
        name = options.pop("expected", None)
        options.pop("checkpoint", None)  # nothing half done is taken over
        started = datetime.datetime.now(datetime.UTC)
        history = fit(*arguments, **options)
        if name:
            steps = len(history.steps)
            at = sorted({max(1, round(steps * (i / POINTS) ** 1.5)) for i in range(1, POINTS + 1)})
            curves = expected.smoothed(history.losses, steps)
            made.append(
                {
                    "name": name,
                    "settings": {"steps": steps, "batch_size": history.batch_size},
                    "at": at,
                    "losses": {loss: [rounded(values[i - 1]) for i in at] for loss, values in curves.items()},
                    "seconds": round(history.seconds, 1),
                    "date": started.strftime("%Y-%m-%dT%H:%MZ"),
                    "machine": machine(),
                }
            )
        return history

    training.fit = recording
    torch.manual_seed = lambda number: manual_seed(number + 7919 * seed)
    try:
        torch.manual_seed(0)
        namespace = {"__name__": "curves"}
        with contextlib.chdir(folder):
            for number, source in enumerate(cells, 1):
                exec(compile(source, f"{folder.name}, code cell {number}", "exec"), namespace)
    finally:
        training.fit, torch.manual_seed = fit, manual_seed
    return made


def rounded(value):
    """Four digits."""
    return float(f"{value:.4g}") if math.isfinite(value) else value


def kept(file, named):
    """The runs in the file that the cells of today made: list of dict."""
    if not file.exists():
        return []
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    return [run for run in runs if named.get(run["name"]) == run["code"]]


def write(file, lesson, runs):
    """The file, whole at any moment, a line for each run."""
    seeds = " ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
    lines = ",\n  ".join(json.dumps(run) for run in runs)
    command = f"autograder curves {lesson} --seeds {seeds}"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    text = f'{{\n "lesson": "{lesson}",\n "command": "{command}",\n "runs": [\n  {lines}\n ]\n}}\n'
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, file)


def main(options):
    """The command: 0, or 2 and what is wrong."""
    try:
        record(options.lesson, options.seeds)
    except LessonError as error:
        print(f"autograder: {error}", file=sys.stderr)
        return 2
    return 0
