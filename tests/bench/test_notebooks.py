"""The solutions' notebooks, run and compared as `make test` does, beside the trainings in them; and `make build`."""

import ast
import json
import os
import re
import sys

from .frame import ROOT, run

GOAL = 25 * 60  # seconds for all tests


def calls(node):
    """The names that are called below a node, functions defined there left out."""
    todo, names = list(ast.iter_child_nodes(node)), set()
    while todo:
        part = todo.pop()
        if isinstance(part, ast.Call):
            names.add(getattr(part.func, "id", getattr(part.func, "attr", "")))
        if not isinstance(part, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(part)
    return names


def training_cells(notebook):
    """The numbers of the code cells in which `fit` runs, itself or by functions of the notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    trees = [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    functions = {part.name: calls(part) for tree in trees for part in ast.walk(tree) if isinstance(part, ast.FunctionDef)}
    trains, before = {"fit"}, set()
    while trains != before:
        before, trains = trains, trains | {name for name, called in functions.items() if called & trains}
    return {number for number, tree in enumerate(trees) if calls(tree) & trains}


def test_training_cells_are_told_from_others(tmp_path):
    sources = ["def go():\n    return fit(model)", "def far():\n    go()", "x = 1", "for i in [1]:\n    far()", "t.fit(x)"]
    cells = [{"cell_type": "markdown", "source": ["fit(x)"]}, *({"cell_type": "code", "source": [s]} for s in sources)]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert training_cells(path) == {3, 4}


def test_notebooks(table):
    """One run of all, two notebooks at a time; every cell must give what is saved."""
    notebooks = sorted((ROOT / "solutions").glob("*/*.ipynb"))
    environment = {"COURSEKIT_QUIET": "1", "COURSEKIT_CHECKPOINTS": "0", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}
    command = [sys.executable, "-m", "pytest", "-n", 2, "--dist", "loadfile", "--no-loadscope-reorder", "--nbval", "--durations=0", "-vv"]
    longest = ("05", "13", "12", "11", "09")  # as in the Makefile: those that train long first
    ordered = sorted(notebooks, key=lambda path: -longest.index(path.parent.name[:2]) if path.parent.name[:2] in longest else 1)
    done = run([*command, *ordered], cwd=ROOT, environment=environment)
    found = re.findall(r"([\d.]+)s (?:call|setup|teardown) +.*?(\d\d_\w+)/\w+\.ipynb::Cell (\d+)", done.output)
    build = run([sys.executable, "-m", "autograder.cli", "build"], cwd=ROOT)
    result = table("notebooks", "The solutions' notebooks, executed and compared", ["", "s in all", "s of training"])
    total = trained = 0.0
    for path in notebooks:
        trains, mine = training_cells(path), [(float(s), int(cell)) for s, lesson, cell in found if lesson == path.parent.name]
        assert mine, f"no time of {path.parent.name} in what pytest said"
        total, trained = total + sum(s for s, _ in mine), trained + sum(s for s, cell in mine if cell in trains)
        result.row(path.parent.name, sum(s for s, _ in mine), sum(s for s, cell in mine if cell in trains))
    result.row("all lessons", total, trained)
    result.row("`pytest --nbval`, two notebooks at a time", done.seconds)
    result.row("`make build` where nothing changed", build.seconds)
    result.goal(done.seconds < GOAL / 2, f"the notebooks take {done.seconds / 60:.1f} minutes, half of what all tests may take")
    assert not result.missed
