"""Hand-ins of lesson 03: `autograder grade`, sandbox and judge on, beside `nbgrader autograde`."""

import functools
import json
import os
import shutil
import statistics
import sys
from pathlib import Path

from autograder.build import expand
from autograder.grade import COURSE

from ..grading.conftest import automatic_marks, make_class
from .frame import ROOT, run

LESSON = "03_matching"
# As a class hands in; the kinds that stop or deceive stock nbgrader have their place in tests/attacks.
KINDS = ("all right", "all right", "half right", "all right", "syntax error",
         "all right", "half right", "all right", "all wrong", "untouched")  # fmt: skip
GOAL = 25  # times what nbgrader needs for a hand-in
IN_ALL = 10  # times what it needs for a class of forty, starting included
TIMES = 10  # so many times as many hand-ins, to tell what each costs from what is fixed


@functools.cache
def _lesson():
    return make_class.Lesson(ROOT / "solutions" / LESSON / f"{LESSON[3:]}.py")


def hand_in(folder, count):
    """`folder/submitted` with so many students' hand-ins, no two alike; for each student the points to be given."""
    made = {kind: make_class.KINDS[kind](_lesson()) for kind in dict.fromkeys(KINDS)}
    expected = {}
    for number in range(count):
        notebook, points = made[KINDS[number % len(KINDS)]]
        student = f"s{number:04}"
        path = folder / "submitted" / student / LESSON / f"{LESSON[3:]}.ipynb"
        path.parent.mkdir(parents=True)
        first = next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution"))
        source, first.source = first.source, f"{first.source}\n# {student}"
        path.write_text(make_class.text_of(notebook), encoding="utf-8")
        first.source = source
        expected[student] = {name: score for name, score in points.items() if score is not None}
    return expected


def marks(folder):
    """`(student, cell) -> points` of the automatic marks in the gradebook of `folder`."""
    return {place: score for place, (score, _) in automatic_marks(folder, LESSON).items()}


def points_of(found, expected):
    """The marks as `expected` has them: student -> exercise -> points, of the exercises it names."""
    given = {student: dict.fromkeys(points, 0) for student, points in expected.items()}
    for (student, cell), score in found.items():
        name = cell.removeprefix("test_").split("__")[0]
        if name in given[student]:
            given[student][name] += score or 0
    return given


def ours(folder, *, processes=1, memory=False):
    """Grade the hand-ins of `folder` anew."""
    shutil.rmtree(folder / "ours", ignore_errors=True)
    command = [sys.executable, "-m", "autograder.cli", "grade", "--submitted", folder / "submitted"]
    command += ["--output", folder / "ours", "--lesson", LESSON, "-j", processes]
    return run(command, cwd=folder, memory=memory)


def stock(folder, *options, figures=True):
    """The same by nbgrader's own commands; its release is made before the clock starts.

    Without `figures` the lesson's own demonstrations, which no check needs, are emptied in every notebook.
    """
    root = folder / "stock"
    shutil.rmtree(root, ignore_errors=True)
    (root / "source" / LESSON).mkdir(parents=True)
    source = ROOT / "solutions" / LESSON / f"{LESSON[3:]}.py"
    (root / "source" / LESSON / f"{source.stem}.ipynb").write_text(make_class.text_of(expand(source)))
    shutil.copytree(folder / "submitted", root / "submitted")
    for notebook in () if figures else [*root.glob("source/*/*.ipynb"), *root.glob("submitted/*/*/*.ipynb")]:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            if cell["cell_type"] == "code" and "nbgrader" not in cell["metadata"]:
                cell["source"] = ""
        notebook.write_text(make_class.text_of(content), encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it calls alembic by name

    def nbgrader(*command):
        course = f"--CourseDirectory.course_id={COURSE}"
        return run([sys.executable, "-m", "nbgrader", *command, course], cwd=root, environment={"PATH": path})

    nbgrader("generate_assignment", LESSON)
    return nbgrader("autograde", LESSON, *options)


def test_grading_beside_nbgrader(table, tmp_path, request):
    """Same hand-ins, same marks, one process each; and ten times as many for the grader, which is soon done."""
    count = request.config.getoption("--hand-ins")
    same, more = tmp_path / "same", tmp_path / "more"
    expected = hand_in(same, count)
    hand_in(more, TIMES * count)
    immediate = "--ExecutePreprocessor.shutdown_kernel=immediate"
    peers = {
        "nbgrader autograde": lambda: stock(same),
        "with shutdown_kernel=immediate": lambda: stock(same, immediate),
        "and the lesson's figures left out": lambda: stock(same, immediate, figures=False),
    }
    large, small, beside = [ours(more)], [ours(same)], {}
    found = marks(same / "ours")
    assert points_of(found, expected) == expected
    for name, peer in peers.items():  # a stock run takes minutes: one of ours before it and one after
        done = peer()
        beside[name] = done, *of_stock(done, same, count)
        assert marks(same / "stock") == found
        small.append(ours(same))
        assert marks(same / "ours") == found
    large.append(ours(more))

    def each(one, other, of):
        return (median(of(run) for run in other) - median(of(run) for run in one)) / ((TIMES - 1) * count)

    median = statistics.median
    seconds, cpu = (each(small, large, of) for of in (lambda run: run.seconds, lambda run: run.cpu))
    assert seconds > 0, "other load swallowed what the hand-ins cost: try again when it is quiet, with more --hand-ins"
    in_all = median(run.seconds for run in small)
    result = table(
        "grading",
        f"Grading {count} hand-ins of lesson 03 on one process, sandbox and judge on",
        ["", "s in all", "s fixed", "s a hand-in", "CPU s in all", "CPU s a hand-in", "stock / ours, a hand-in", "in all"],
    )
    fixed = max(0.0, in_all - count * seconds)
    result.row("autograder grade -j 1", in_all, fixed, seconds, median(run.cpu for run in small), cpu)
    for number, (name, (done, start, theirs)) in enumerate(beside.items()):
        whole = median(done.seconds / our.seconds for our in small[number : number + 2])
        result.row(name, done.seconds, start, theirs, done.cpu, "", theirs / seconds, whole)
        if number == 0:
            result.goal(theirs / seconds >= GOAL, f"{theirs / seconds:.0f} times nbgrader's defaults a hand-in, the goal is {GOAL}")
            if count >= 40:
                result.goal(whole >= IN_ALL, f"{whole:.0f} times as many hand-ins a minute in all, the goal is {IN_ALL}")
    result.notes.append(
        f"All marks of the {count} are equal. What is fixed in our runs is told from what each hand-in costs by runs of "
        f"{TIMES * count}; in nbgrader's it is the time until the first hand-in begins. nbgrader runs the lesson's own "
        "figures too, ours only what the student wrote and the checks; so the last row."
    )
    assert not result.missed


def of_stock(run, folder, count):
    """`(start, each)` in seconds, of an nbgrader run on `folder`: the first hand-in is done one hand-in after the start."""
    times = sorted(path.stat().st_mtime for path in (folder / "stock" / "autograded").glob("*/*/*.ipynb"))
    usual = statistics.median(later - one for one, later in zip(times, times[1:]))
    start = max(0.0, times[0] - run.began - usual)
    return start, (run.seconds - start) / count


def test_grading_scale(table, tmp_path, request):
    """Cost a hand-in and memory from ten hand-ins to a thousand."""
    result = table(
        "grading_scale",
        "Grading on two processes, by the number of hand-ins",
        ["hand-ins", "s in all", "hand-ins a minute", "CPU s a hand-in", "GiB at most"],
    )
    cpu, memory = {}, {}
    for count in sorted(int(count) for count in request.config.getoption("--scale").split(",")):
        folder = tmp_path / str(count)
        hand_in(folder, count)
        done = ours(folder, processes=2, memory=True)
        assert len({student for student, _ in marks(folder / "ours")}) == count
        cpu[count], memory[count] = done.cpu, done.memory / 2**30
        least = min(cpu)
        share = (cpu[count] - cpu[least]) / (count - least) if count > least else ""
        result.row(count, done.seconds, 60 * count / done.seconds, share, memory[count])
        shutil.rmtree(folder)
    if 200 in memory:
        result.goal(memory[200] < 4, f"{memory[200]:.1f} GiB at 200 hand-ins, the goal is 4")
    if {10, 100, 1000} <= cpu.keys():
        growth = (cpu[1000] - cpu[100]) / 900 / ((cpu[100] - cpu[10]) / 90)
        result.goal(growth < 1.15, f"one of the last 900 hand-ins costs {growth:.2f} times one of the first 100, at most 1.15")
    result.notes.append(
        "Memory is the sum over all processes, shared pages counted once (PSS), looked at four times a second. CPU seconds "
        "a hand-in are those beyond the smallest run."
    )
    assert not result.missed
