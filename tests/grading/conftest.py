import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: grading forks

import copy
import csv
import importlib

import pytest
from nbgrader.api import Gradebook

from autograder.grade import COURSE, grade, in_processes
from autograder.sandbox import Sandbox, SandboxError

# A class is a keyword, so the folder can only be imported by its name.
make_class = importlib.import_module("tests.class.make_class")

LESSON = '''
# %% [markdown]
r"""
# Two exercises and a question
"""

# %% setup=true
import torch

from coursekit.checks import check, passed, raises, same, untouched

# %% exercise="box_area"
def box_area(boxes):
    """Area of each box. Tensor[N, 4] -> Tensor[N]."""
    ### BEGIN SOLUTION
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ### END SOLUTION

# %% check="box_area" points=2
same(box_area(torch.tensor([[10.0, 20, 40, 60]])), [1200], "30 wide and 40 high")
### BEGIN HIDDEN TESTS
same(box_area(torch.tensor([[1.0, 2, 4, 9]])), torch.tensor([21.0]), "secret of three by seven")
### END HIDDEN TESTS

# %%
raise SystemError("figures and demonstrations are not run while grading")

# %% exercise="box_iou"
def box_iou(boxes1, boxes2):
    """IoU of every pair. Tensor[N, 4], Tensor[M, 4] -> Tensor[N, M]."""
    ### BEGIN SOLUTION
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[:, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(-1)
    return shared / (box_area(boxes1)[:, None] + box_area(boxes2) - shared)
    ### END SOLUTION

# %% check="box_iou" points=3
ten = torch.tensor([[0.0, 0, 10, 10]])
same(box_iou(ten, ten + 3), [[49 / 151]], "7 x 7 shared")
### BEGIN HIDDEN TESTS
same(box_iou(ten, ten + 20), [[0]], "secret of disjoint boxes")
### END HIDDEN TESTS

# %% check="box_iou" part="empty" points=1
same(box_iou(torch.zeros(0, 4), torch.zeros(2, 4)), torch.zeros(0, 2), "no boxes against two")

# %% written="why" points=4
r"""
A model answer.
"""
'''


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of one small lesson, `01_small`."""
    root = tmp_path_factory.mktemp("course")
    folder = root / "solutions" / "01_small"
    folder.mkdir(parents=True)
    (folder / "small.py").write_text(LESSON.lstrip(), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def small(course):
    """The small lesson as the sample class knows it: release, right answers, points."""
    return make_class.Lesson(course / "solutions" / "01_small" / "small.py")


class Graded:
    """The output folder of a grading run, and what is in it."""

    def __init__(self, output):
        self.output = output

    def marks(self, student, lesson="01_small"):
        with open(self.output / "marks.csv", newline="", encoding="utf-8") as file:
            return next(
                row for row in csv.DictReader(file) if (row["student"], row["lesson"]) == (student, lesson)
            )

    def scores(self, student):
        row = self.marks(student)
        return float(row["box_area"]), float(row["box_iou"])

    def page(self, student, lesson="01_small"):
        return (self.output / "feedback" / student / lesson / f"{lesson[3:]}.html").read_text(
            encoding="utf-8"
        )


def hand_in(folder, student, notebook, lesson="01_small"):
    path = folder / "submitted" / student / lesson / f"{lesson[3:]}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook if isinstance(notebook, str) else make_class.text_of(notebook), encoding="utf-8")
    return path


class Shared:
    """One sandbox for many small grading runs, `grade(..., run=shared)`: to open one takes seconds."""

    notes = []

    def __init__(self):
        self.sandbox = Sandbox()

    @property
    def isolation(self):
        try:
            return self.sandbox.isolation
        except SandboxError as error:
            pytest.skip(f"nothing isolates hand-ins here: {error}")

    def __call__(self, jobs):
        return in_processes(jobs, 2, self.sandbox)


shared = Shared()


@pytest.fixture(scope="session")
def isolated():
    """For tests that open a sandbox themselves: they are skipped where none can be had."""
    return shared.isolation


@pytest.fixture(scope="session", autouse=True)
def shared_sandbox():
    yield shared
    shared.sandbox.close()


def grade_class(course, folder, notebooks, **options):
    """Grade `notebooks`, student -> notebook or its text, of the small lesson."""
    for student, notebook in notebooks.items():
        hand_in(folder, student, notebook)
    options = {"timeout": 4.0, "processes": 2, "run": shared, **options}
    return Graded(grade(course, folder / "submitted", folder, **options).parent)


def changed(lesson, change=None, **answers):
    """A hand-in that is right but for `answers`, after `change(notebook)`."""
    notebook = copy.deepcopy(lesson.answered(**answers))
    if change:
        change(notebook)
    return notebook


def automatic_marks(folder, lesson):
    """`(student, cell) -> (points, does it wait for a person?)` in the gradebook of `folder`."""
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", COURSE) as gradebook:
        return {
            (submission.student_id, grade.cell.name): (grade.auto_score, grade.needs_manual_grade)
            for submission in gradebook.assignment_submissions(lesson)
            for notebook in submission.notebooks
            for grade in notebook.grades
        }
