"""Seconds until a lesson can begin, each in a process of its own, beside `import torch` alone."""

import json
import statistics
import sys

from .frame import ROOT, run

ROUNDS = 5
GOAL = 0.3  # seconds above torch's


def first_cell():
    """The first code cell of lesson 05, as students open it."""
    cells = json.loads((ROOT / "course" / "05_ssd" / "ssd.ipynb").read_text(encoding="utf-8"))["cells"]
    return "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])


def test_imports(table):
    """In turn, so that other load falls on all; medians, and medians of the rounds' differences."""
    torch = "import torch"
    programs = {
        "`import torch`": torch,
        "`import coursekit`": "import coursekit",
        "`from coursekit import training, evaluation, backbones, plot`": "from coursekit import training, evaluation, backbones, plot",
        "`import torch, torchvision`": "import torch, torchvision",
        "the first cell of lesson 05": first_cell(),
    }

    def seconds(program):
        return run([sys.executable, "-c", program], cwd=ROOT / "course" / "05_ssd").seconds

    for program in programs.values():
        seconds(program)  # files come to the system's cache
    rounds = [{what: seconds(program) for what, program in programs.items()} for _ in range(ROUNDS)]
    result = table("imports", "Starting Python and importing", ["", "s", "s more than torch"])
    more = {}
    for what in programs:
        more[what] = statistics.median(times[what] - times["`import torch`"] for times in rounds)
        result.row(what, statistics.median(times[what] for times in rounds), more[what] if what != "`import torch`" else "")
    for what in ("`import coursekit`", "the first cell of lesson 05"):
        result.goal(more[what] <= GOAL, f"{what} takes {more[what]:.2f} s more than `import torch`, at most {GOAL}")
    assert not result.missed
